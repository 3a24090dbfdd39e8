"""Writes `shapes.json`, `features.json` and `*.pth` anew; needs torch, torchvision and timm.

Run from the repository's root: `python -m tests.models.published.make`.
"""

import json

import numpy as np
import timm
import torch
import torchvision
from flax import traverse_util

from tests.models.published import BACKBONES, FOLDER, make_image, make_weights, read_shapes, summary

IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
HALF = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
TENSORFLOW = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


def build(network, **options):
    library, name = network.split("/")
    if library == "torchvision":
        return getattr(torchvision.models, name)(weights=None)
    return timm.create_model(name, **options)


def stages(network, images):
    """Yields the network's feature maps, stage by stage, in double precision."""
    # Without the class token, which the backbone does not have either.
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False, "dynamic_img_size": True}
    model = build(network, **(options if "vit" in network else {}))
    weights = make_weights(read_shapes(network))
    if "vit" in network:
        weights["pos_embed"] = weights["pos_embed"][:, 1:]
        del weights["cls_token"]
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()}, strict=False)
    model = model.double().eval()

    mean, std = HALF if "vit" in network else TENSORFLOW if "lite" in network else IMAGENET
    x = torch.from_numpy((images - np.array(mean)) / np.array(std)).permute(0, 3, 1, 2)
    if "resnet" in network:
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            yield (x := layer(x))
    elif "dla" in network:
        x = model.level1(model.level0(model.base_layer(x)))
        for level in (model.level2, model.level3, model.level4, model.level5):
            yield (x := level(x))
    elif network == "torchvision/convnext_tiny":
        for i, part in enumerate(model.features):
            x = part(x)
            if i % 2 == 1:
                yield x
    elif network == "timm/convnext_tiny":
        x = model.stem(x)
        for stage in model.stages:
            yield (x := stage(x))
    elif "lite" in network:
        x = model.bn1(model.conv_stem(x))
        for i, part in enumerate(model.blocks):
            x = part(x)
            if i in (1, 2, 4, 6):
                yield x
    else:
        x = model.patch_embed(x)
        size = x.shape[1:3]
        x = model._pos_embed(x)
        for i, block in enumerate(model.blocks):
            x = block(x)
            if i % 3 == 2:
                yield x.unflatten(1, size).permute(0, 3, 1, 2)
        yield model.norm(x).unflatten(1, size).permute(0, 3, 1, 2)


def write(name, by_network):
    """Writes JSON with a line for each network."""
    lines = (f'"{network}": {json.dumps(x, separators=(",", ":"))}' for network, x in by_network.items())
    (FOLDER / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    shapes = {
        network: traverse_util.unflatten_dict(
            {
                name: list(tensor.shape)
                for name, tensor in build(network).state_dict().items()
                if not name.endswith("num_batches_tracked")
            },
            sep=".",
        )
        for network in BACKBONES
    }
    write("shapes.json", shapes)
    with torch.no_grad():
        features = {
            network: [
                [round(x, 6) for x in summary(x[0].permute(1, 2, 0).numpy())]
                for x in stages(network, make_image()[None])
            ]
            for network in BACKBONES
        }
    write("features.json", features)

    numbers = torch.arange(6).reshape(2, 3)
    dtypes = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    state = {dtype: numbers.to(getattr(torch, dtype)) for dtype in dtypes}
    state["transposed"] = state["float32"].T  # the storage of "float32", in another order
    state["part"] = state["float32"][1:, 1:]
    state["scalar"] = torch.tensor(7)
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    torch.save(state, FOLDER / "zip.pth")
    torch.save(state, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state}, FOLDER / "training.pth")


if __name__ == "__main__":
    main()
