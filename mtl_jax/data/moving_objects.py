"""TFDS builder `moving_objects`: rendered videos, see `mtl_jax.data.synthetic`."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mtl_jax.data import records, sprites, synthetic, video
from mtl_jax.progress import track

SPLITS = ("train", "validation", "test")
FRAME_RATE = 25.0


class MovingObjects(tfds.core.GeneratorBasedBuilder):
    """Videos of moving textured shapes with complete ground truth; one example is one frame, in order."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name=name, description=f"{c.width}x{c.height} pixels, {c.num_classes} classes"
        )
        for name, c in synthetic.PRESETS.items()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(masks=True),
            description=synthetic.__doc__,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        scene = synthetic.PRESETS[self.builder_config.name]
        sequences, first = [], 0
        for split in SPLITS:
            count, length = getattr(scene, split)
            for k in range(count):
                name = f"{split}-{k:03d}"
                sequences.append(
                    records.Sequence(
                        split=split,
                        name=name,
                        first=first,
                        length=length,
                        frame_rate=FRAME_RATE,
                        width=scene.width,
                        height=scene.height,
                    )
                )
                first += length
        contents = records.Contents(sprites.CLASSES[: scene.num_classes], tuple(sequences), 0, 0)
        self.info.metadata.update(contents._asdict())
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        scene = synthetic.PRESETS[self.builder_config.name]
        metadata = self.info.metadata
        number = 0
        sequences = [(i, s) for i, s in enumerate(metadata["sequences"]) if s.split == split]
        for index, sequence in track(sequences, f"rendering {split}"):
            # The index in the table seeds the video: no two videos of a data set are alike.
            rendered = synthetic.render_video(scene, index, sequence.length)
            seen = rendered.present.any(axis=0)
            track_ids = np.where(seen, metadata["num_tracks"] + np.cumsum(seen) - 1, -1)
            metadata["num_tracks"] += int(seen.sum())
            metadata["max_objects"] = max(metadata["max_objects"], int(rendered.present.sum(axis=1).max()))
            for t in range(sequence.length):
                yield number, records.to_example(_record(rendered, t, index, track_ids))
                number += 1


def _record(rendered: synthetic.Video, t: int, sequence: int, track_ids: np.ndarray) -> records.Record:
    """Returns frame `t` of a rendered video, with rows for the objects that are in it."""
    rows = np.flatnonzero(rendered.present[t])
    labels = np.zeros(
        rendered.present.shape[1] + 1, np.uint8
    )  # from the video's label map to that of the record
    labels[rows + 1] = np.arange(len(rows)) + 1
    return records.Record(
        image=video.encode_jpeg(rendered.frames[t]),
        sequence=sequence,
        frame=t + 1,
        objects=records.Objects(
            boxes=rendered.boxes[t, rows].astype(np.float32),
            visible_boxes=rendered.visible_boxes[t, rows].astype(np.float32),
            classes=rendered.classes[rows].astype(np.int32),
            track_ids=track_ids[rows].astype(np.int32),
            visibility=rendered.visibility[t, rows].astype(np.float32),
            velocity=rendered.velocity[t, rows].astype(np.float32),
            depth=rendered.depth[rows].astype(np.int32),
            ignore=np.zeros(len(rows), np.bool_),
        ),
        masks=video.encode_png(labels[rendered.masks[t]]),
    )
