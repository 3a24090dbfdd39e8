"""The published trackers once more, in plain NumPy and SciPy: lists of objects, whole matrices, float64.

Written from the papers and the authors' code, to compare with. Where `mtl_jax.tracking` says that it differs from the
authors, so does this.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment


def iou(a, b):
    a, b = np.asarray(a).reshape(-1, 4), np.asarray(b).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    area = np.prod(a[:, 2:] - a[:, :2], axis=-1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=-1)
    return common / np.maximum(area - common, 1e-9)


def assign(worth, least):
    """Pairs (row, column) of largest summed `worth - least`; none that is not above."""
    if worth.size == 0:
        return []
    gain = np.maximum(worth - least, 0)
    return [
        (r, c) for r, c in zip(*linear_sum_assignment(gain, maximize=True), strict=True) if gain[r, c] > 0
    ]


def center(box):
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


class Filter:
    """Kalman filter with whole matrices."""

    def __init__(self, z, velocities=4):
        self.dims = 4 + velocities
        self.F = np.eye(self.dims)
        self.F[:velocities, 4:] = np.eye(velocities)
        self.H = np.eye(4, self.dims)
        self.x = np.concatenate([z, np.zeros(velocities)])
        self.P = self.start()

    def predict(self):
        Q = self.process()
        self.x = self.F @ self.x
        self.P = self.F @ self.P @ self.F.T + Q

    def update(self, z):
        S = self.H @ self.P @ self.H.T + self.measurement()
        K = self.P @ self.H.T @ np.linalg.inv(S)
        self.x = self.x + K @ (z - self.H @ self.x)
        self.P = (np.eye(self.dims) - K @ self.H) @ self.P

    def gating(self, z):
        S = self.H @ self.P @ self.H.T + self.measurement()
        return (z - self.H @ self.x) @ np.linalg.inv(S) @ (z - self.H @ self.x)


class AreaFilter(Filter):
    """(cx, cy, s, r) of SORT."""

    def __init__(self, box):
        super().__init__(self.measure(box), velocities=3)

    @staticmethod
    def measure(box):
        w, h = box[2] - box[0], box[3] - box[1]
        return np.array([*center(box), w * h, w / h])

    def start(self):
        return np.diag([10, 10, 10, 10, 1e4, 1e4, 1e4]).astype(float)

    def process(self):
        return np.diag([1, 1, 1, 1, 0.01, 0.01, 0.0001])

    def measurement(self):
        return np.diag([1, 1, 10, 10]).astype(float)

    def predict(self):
        if self.x[2] + self.x[6] <= 0:
            self.x[6] = 0
        super().predict()

    def box(self):
        s, r = max(self.x[2], 0), self.x[3]
        size = np.array([np.sqrt(s * r), np.sqrt(s / r)])
        return np.concatenate([self.x[:2] - size / 2, self.x[:2] + size / 2])


class ScaledAreaFilter(AreaFilter):
    """(cx, cy, s, r) with the noise of width and height that err on their own, by shares of the size."""

    def _scale(self):
        s, r = max(self.x[2], 0), max(self.x[3], 1e-6)
        w, h = max(np.sqrt(s * r), 1), max(np.sqrt(s / r), 1)
        return np.array([w, h, np.sqrt(2) * w * h, np.sqrt(2) * w / h])

    def start(self):
        return np.diag(np.concatenate([self._scale() / 5, self._scale()[:3] * 10 / 64])) ** 2

    def process(self):
        return np.diag(np.concatenate([self._scale() / 40, self._scale()[:3] / 64])) ** 2

    def measurement(self):
        return np.diag(self._scale() / 10) ** 2


class AspectFilter(Filter):
    """(cx, cy, a, h) of DeepSORT, JDE and ByteTrack."""

    def __init__(self, box):
        super().__init__(self.measure(box))

    @staticmethod
    def measure(box):
        w, h = box[2] - box[0], box[3] - box[1]
        return np.array([*center(box), w / h, h])

    def start(self):
        h = self.x[3]
        return np.diag([h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16]) ** 2

    def process(self):
        h = max(self.x[3], 1)
        return np.diag([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]) ** 2

    def measurement(self):
        h = max(self.x[3], 1)
        return np.diag([h / 20, h / 20, 1e-1, h / 20]) ** 2

    def box(self):
        size = np.array([self.x[2] * self.x[3], self.x[3]])
        return np.concatenate([self.x[:2] - size / 2, self.x[:2] + size / 2])

    frozen = (7,)


class SizeFilter(Filter):
    """(cx, cy, w, h) of BoT-SORT."""

    def __init__(self, box):
        super().__init__(self.measure(box))

    @staticmethod
    def measure(box):
        return np.array([*center(box), box[2] - box[0], box[3] - box[1]])

    def _size(self):
        return np.maximum(np.tile(self.x[2:4], 2), 1)

    def start(self):
        return np.diag(np.concatenate([self._size() / 10, self._size() / 16])) ** 2

    def process(self):
        return np.diag(np.concatenate([self._size() / 20, self._size() / 160])) ** 2

    def measurement(self):
        return np.diag(self._size() / 20) ** 2

    def box(self):
        size = np.maximum(self.x[2:4], 0)
        return np.concatenate([self.x[:2] - size / 2, self.x[:2] + size / 2])

    def warp(self, affine):
        matrix = np.kron(np.eye(4), affine[:, :2])
        self.x = matrix @ self.x
        self.x[:2] += affine[:, 2]
        self.P = matrix @ self.P @ matrix.T

    frozen = (6, 7)


class Track:
    def __init__(self, identity, box, score, filter_, frame, feature=None):
        self.id, self.box, self.score, self.filter = identity, box, score, filter_
        self.missed, self.streak, self.start, self.end = 0, 0, frame, frame
        self.activated = frame == 1
        self.feature = feature
        self.observations = {frame: box}
        self.heading = np.zeros(2)
        self.saved = None
        self.active = 1


class Sort:
    """SORT."""

    filter, confirm_again = AreaFilter, True

    def __init__(self, max_lost=1, min_hits=3, match_iou=0.3, high=0.0):
        self.max_lost, self.min_hits, self.match_iou, self.high = max_lost, min_hits, match_iou, high
        self.tracks, self.frame, self.ids = [], 0, 0

    def step(self, boxes, scores, **_):
        self.frame += 1
        boxes, scores = boxes[scores >= self.high], scores[scores >= self.high]
        self.predict()
        matched = self.match(boxes, scores)
        for t, d in matched:
            self.see(self.tracks[t], boxes[d], scores[d])
        for t, track in enumerate(self.tracks):
            if t not in dict(matched):
                self.miss(track)
        for d in sorted(set(range(len(boxes))) - {d for _, d in matched}, key=lambda d: -scores[d]):
            self.ids += 1
            self.tracks.append(Track(self.ids, boxes[d], scores[d], self.filter(boxes[d]), self.frame))
        reported = {
            track.id: self.output(track)
            for track in self.tracks
            if track.missed == 0 and (track.streak >= self.min_hits or self.frame <= self.min_hits)
        }
        self.tracks = [track for track in self.tracks if track.missed <= self.max_lost]
        return reported

    def predict(self):
        for track in self.tracks:
            track.filter.predict()
            if track.missed > 0 and (self.confirm_again or track.streak < self.min_hits):
                track.streak = 0
            track.missed += 1

    def match(self, boxes, scores):
        overlap = iou([t.filter.box() for t in self.tracks], boxes)
        return assign(np.where(overlap >= self.match_iou, overlap, 0), 0)

    def see(self, track, box, score):
        track.filter.update(self.filter.measure(box))
        track.missed, track.streak = 0, track.streak + 1

    def miss(self, track):
        pass

    def output(self, track):
        return track.filter.box()


class OcSort(Sort):
    """OC-SORT."""

    def __init__(self, low_turn=False, inertia=0.2, span=3):
        super().__init__(max_lost=30, high=0.0)
        self.det_thresh, self.low_turn, self.inertia, self.span = 0.6, low_turn, inertia, span

    def step(self, boxes, scores, **_):
        keep = scores >= 0.1 if self.low_turn else scores >= self.det_thresh
        boxes, scores = boxes[keep], scores[keep]
        self.frame += 1
        self.predict()
        high = np.flatnonzero(scores >= self.det_thresh)
        low = np.flatnonzero(scores < self.det_thresh)
        matched = {}

        def turn(candidates, worth):
            tracks = [t for t in range(len(self.tracks)) if t not in matched]
            candidates = [d for d in candidates if d not in matched.values()]
            for t, d in assign(worth[np.ix_(tracks, candidates)], 0):
                matched[tracks[t]] = candidates[d]

        overlap = iou([t.filter.box() for t in self.tracks], boxes)
        momentum = np.zeros_like(overlap)
        for t, track in enumerate(self.tracks):
            for d, box in enumerate(boxes):
                way = center(box) - center(self.earlier(track))
                way = way / max(np.linalg.norm(way), 1e-6)
                angle = np.arccos(np.clip(way @ track.heading, -1, 1))
                momentum[t, d] = (np.pi / 2 - np.abs(angle)) / np.pi
        worth = overlap + self.inertia * momentum * scores
        turn(high, np.where(overlap >= self.match_iou, worth, 0))
        if self.low_turn:
            turn(low, np.where(overlap >= self.match_iou, overlap, 0))
        last = iou([t.box for t in self.tracks], boxes)
        turn(high, np.where(last >= self.match_iou, last, 0))

        for t, track in enumerate(self.tracks):
            if t in matched:
                self.see(track, boxes[matched[t]], scores[matched[t]])
            elif track.missed == 1:
                track.saved = (track.filter.x.copy(), track.filter.P.copy())
        for d in sorted(set(high) - set(matched.values()), key=lambda d: -scores[d]):
            self.ids += 1
            self.tracks.append(Track(self.ids, boxes[d], scores[d], self.filter(boxes[d]), self.frame))
        reported = {
            track.id: track.box
            for track in self.tracks
            if track.missed == 0 and (track.streak >= self.min_hits or self.frame <= self.min_hits)
        }
        self.tracks = [track for track in self.tracks if track.missed <= self.max_lost]
        return reported

    def earlier(self, track):
        for dt in range(self.span, 0, -1):
            if self.frame - dt in track.observations:
                return track.observations[self.frame - dt]
        return track.box

    def see(self, track, box, score):
        way = center(box) - center(self.earlier(track))
        track.heading = way / max(np.linalg.norm(way), 1e-6)
        gap = track.missed
        if gap > 1:
            # Back to where it was lost, and along a straight line to here.
            track.filter.x, track.filter.P = track.saved
            first, last = SizeFilter.measure(track.box), SizeFilter.measure(box)
            for i in range(1, gap):
                here = first + i / gap * (last - first)
                between = np.concatenate([here[:2] - here[2:] / 2, here[:2] + here[2:] / 2])
                track.filter.update(self.filter.measure(between))
                Filter.predict(track.filter)
        track.filter.update(self.filter.measure(box))
        track.box, track.observations[self.frame] = box, box
        track.missed, track.streak = 0, track.streak + 1


class ScaledSort(Sort):
    """SORT as it is by default here."""

    filter, confirm_again = ScaledAreaFilter, False


class ScaledOcSort(OcSort):
    """OC-SORT as it is by default here."""

    filter, confirm_again = ScaledAreaFilter, False


class ByteTrack:
    """ByteTrack; with `SizeFilter`, features and camera motion it is BoT-SORT."""

    high, low, new, match, low_match, unconfirmed_match, buffer = 0.6, 0.1, 0.7, 0.2, 0.5, 0.3, 30
    filter, predict_unconfirmed = AspectFilter, False

    def __init__(self):
        self.tracked, self.lost, self.frame, self.ids = [], [], 0, 0

    def step(self, boxes, scores, features=None, camera=None):
        self.frame += 1
        high = np.flatnonzero(scores >= self.high)
        low = np.flatnonzero((scores >= self.low) & (scores < self.high))
        unconfirmed = [t for t in self.tracked if not t.activated]
        confirmed = [t for t in self.tracked if t.activated]
        pool = confirmed + self.lost
        for track in pool + (unconfirmed if self.predict_unconfirmed else []):
            if track in self.lost:
                track.filter.x[list(self.filter.frozen)] = 0
            track.filter.predict()
        if camera is not None:
            for track in pool + unconfirmed:
                track.filter.warp(camera)

        left, rest = self.first(pool, high, boxes, scores, features)
        rest = self.turns_after_first(left, rest, low, unconfirmed, boxes, scores, features)

        for d in sorted(rest, key=lambda d: -scores[d]):
            if scores[d] >= self.new:
                self.ids += 1
                feature = None if features is None else features[d]
                track = Track(self.ids, boxes[d], scores[d], self.filter(boxes[d]), self.frame, feature)
                self.tracked.append(track)
        self.lost = [t for t in self.lost if self.frame - t.end <= self.buffer]
        self.remove_twins()
        return {t.id: t.filter.box() for t in self.tracked if t.activated}

    def first(self, pool, high, boxes, scores, features):
        return self.turn(
            pool, high, self.strong(pool, high, boxes, scores, features), self.match, boxes, features
        )

    def turns_after_first(self, left, rest, low, unconfirmed, boxes, scores, features):
        seen = [t for t in left if t in self.tracked]
        left, _ = self.turn(
            seen, low, iou([t.filter.box() for t in seen], boxes[low]), self.low_match, boxes, None
        )
        return self.last(left, rest, unconfirmed, boxes, scores, features)

    def last(self, left, rest, unconfirmed, boxes, scores, features):
        for track in left:
            self.tracked.remove(track)
            self.lost.append(track)
        strong = self.strong(unconfirmed, rest, boxes, scores, features)
        left, rest = self.turn(unconfirmed, rest, strong, self.unconfirmed_match, boxes, features)
        for track in left:
            self.tracked.remove(track)
        return rest

    def strong(self, tracks, candidates, boxes, scores, features):
        overlap = iou([t.filter.box() for t in tracks], boxes[candidates])
        fused = overlap * scores[candidates]
        if features is None or not len(tracks):
            return fused
        half = (1 - np.array([t.feature for t in tracks]) @ features[candidates].T) / 2
        return np.maximum(fused, np.where((half <= 0.25) & (overlap >= 0.5), 1 - half, 0))

    def turn(self, tracks, candidates, worth, least, boxes, features):
        tracks, candidates = list(tracks), list(candidates)
        pairs = assign(worth, least)
        for t, d in pairs:
            track, detection = tracks[t], candidates[d]
            track.filter.update(self.filter.measure(boxes[detection]))
            if features is not None:
                mixed = 0.9 * track.feature + 0.1 * features[detection]
                track.feature = mixed / np.linalg.norm(mixed)
            track.activated, track.end = True, self.frame
            if track in self.lost:
                self.lost.remove(track)
                self.tracked.append(track)
        done_tracks, done = {t for t, _ in pairs}, {d for _, d in pairs}
        return (
            [track for t, track in enumerate(tracks) if t not in done_tracks],
            [detection for d, detection in enumerate(candidates) if d not in done],
        )

    def remove_twins(self):
        overlap = iou([t.filter.box() for t in self.tracked], [t.filter.box() for t in self.lost])
        gone = []
        for p, q in zip(*np.nonzero(overlap > 0.85), strict=True):
            older = self.tracked[p].end - self.tracked[p].start > self.lost[q].end - self.lost[q].start
            gone.append(self.lost[q] if older else self.tracked[p])
        self.tracked = [t for t in self.tracked if t not in gone]
        self.lost = [t for t in self.lost if t not in gone]


class BotSort(ByteTrack):
    filter, predict_unconfirmed = SizeFilter, True


class Jde(ByteTrack):
    """JDE."""

    high, new, match, unconfirmed_match = 0.5, 0.5, 0.5, 0.3

    def first(self, pool, high, boxes, scores, features):
        if not pool or not len(high):
            return pool, list(high)
        apart = np.maximum(1 - np.array([t.feature for t in pool]) @ features[high].T, 0)
        squared = np.array([[t.filter.gating(self.filter.measure(boxes[d])) for d in high] for t in pool])
        cost = np.where(squared > 9.4877, np.inf, 0.98 * apart + 0.02 * squared)
        return self.turn(pool, high, np.where(np.isfinite(cost), -cost, -9), -0.7, boxes, features)

    def turns_after_first(self, left, rest, low, unconfirmed, boxes, scores, features):
        seen = [t for t in left if t in self.tracked]
        overlap = iou([t.filter.box() for t in seen], boxes[rest])
        left, rest = self.turn(seen, rest, overlap, self.match, boxes, features)
        return self.last(left, rest, unconfirmed, boxes, scores, features)

    def strong(self, tracks, candidates, boxes, scores, features):
        return iou([t.filter.box() for t in tracks], boxes[candidates])


class CenterTrack:
    """CenterTrack."""

    def __init__(self, max_lost=0):
        self.tracks, self.ids, self.max_lost = [], 0, max_lost

    def step(self, boxes, scores, displacement=None, **_):
        free, after, left = list(self.tracks), [], []
        for d in np.argsort(-scores, kind="stable"):
            if scores[d] < 0.4:
                continue
            here = center(boxes[d]) + displacement[d]
            area = np.prod(boxes[d][2:] - boxes[d][:2])
            reach = [
                (squared, track)
                for track in free
                if (squared := np.sum((center(track.box) - here) ** 2))
                <= min(area, np.prod(track.box[2:] - track.box[:2]))
            ]
            if not reach:
                left.append(d)
                continue
            track = min(reach, key=lambda pair: pair[0])[1]
            free.remove(track)
            track.box, track.missed = boxes[d], 0
            after.append(track)
        for d in left:
            self.ids += 1
            after.append(Track(self.ids, boxes[d], scores[d], None, 1))
        for track in free:
            track.missed += 1
            if track.missed <= self.max_lost:
                after.append(track)
        self.tracks = after
        return {track.id: track.box for track in after if track.missed == 0}
