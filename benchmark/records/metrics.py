"""Every metric from the sufficient statistics of a record: its score, and its score on resampled samples. numpy only.

What a meter keeps for each metric (`n` samples; all sums are over one sample's valid pixels):

| metric | statistics | unit |
|---|---|---|
| accuracy | CorrectBits, or Values predicted, label `[n]` integers | percent |
| mcc | Values predicted, label `[n]` | 100 x Matthews correlation |
| f1 | Values predicted, label `[n]`, class 1 the positive one | percent |
| pearson_spearman, pearson, spearman | Values predicted, target `[n]` floats | 100 x correlation |
| miou, pixel_accuracy | Values confusion `[n, C, C]`, rows the labels, columns the predictions | percent |
| abs_err, rel_err | Values abs_sum, rel_sum, count `[n]` | that of the target; a fraction |
| mean_angle | Values angle_sum (degrees), count `[n]`, histogram `[n, 360]` of half degrees | degrees |
| median_angle, within_11.25, within_22.5, within_30 | the same | degrees; percent of pixels |
| perplexity | Values nll_sum (natural logarithm), count `[n]`: of a text's tokens | exp of the mean over tokens |

A metric whose statistics are sums over samples may also be kept as Sums, the same names summed (matrices row by row);
it then has a score but cannot be resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.records.record import LARGEST_STATISTICS, CorrectBits, Sums, Values

Statistics = CorrectBits | Values | Sums

#: Bytes of resampled totals held at a time.
_CHUNK = 64 << 20
_BINS_PER_DEGREE = 2


@dataclass(frozen=True)
class Metric:
    """A metric: its title, direction, how it is written, and how totals over samples give its value.

    `totals(arrays)` gives what is summed over samples, `[n, m]`; `value(sums)` maps `[..., m]` to `[...]`. A metric of
    ranks has no sums over samples: there `value(columns, weights)` maps `[n, m]` and `[B, n]` to `[B]`.
    """

    name: str
    title: str
    arrays: tuple[str, ...]
    totals: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    value: Callable[..., np.ndarray]
    higher_is_better: bool = True
    percent: bool = True
    digits: int = 1
    unit: str = "%"
    additive: bool = True
    degenerate: str = ""
    """What its value is where it is not defined."""

    @property
    def arrow(self) -> str:
        """Up where higher is better, else down."""
        return "↑" if self.higher_is_better else "↓"


def get(name: str) -> Metric:
    """The metric of this name. Raises ValueError for one that is not known."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}, known are {', '.join(METRICS)}")
    return METRICS[name]


def score(metric: str, statistics: Statistics) -> float:
    """The metric over all samples, in the unit of the table above.

    Degenerate cases: a correlation with a constant is 0, as are `mcc` and `f1` without what they divide by; `miou`
    leaves out classes that neither occur nor are predicted.
    Raises ValueError where the statistics are not the metric's, do not fit each other, or hold no samples.
    """
    about = get(metric)
    if isinstance(statistics, CorrectBits) and metric == "accuracy" and statistics.n:
        return 100 * (statistics.count() / statistics.n)
    columns = rows(metric, statistics)
    if about.additive:
        return float(about.value(columns.sum(axis=0)))
    return float(about.value(columns, np.ones((1, len(columns))))[0])


def resample(metric: str, statistics: Statistics, weights: np.ndarray) -> np.ndarray:
    """The metric of each resample, `[B]`: sample i is in the b-th one `weights[b, i]` times (or with that weight).

    Correlations of ranks are exact: each resample is ranked again, ties sharing the mean of their ranks.
    Raises ValueError as `score` does, for Sums, and for weights that are not `[B, n]`.
    """
    if isinstance(statistics, Sums):
        raise ValueError("sums over the split cannot be resampled; keep one row per sample")
    return resample_rows(metric, rows(metric, statistics), weights)


def resample_rows(metric: str, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`resample` from what `rows` gives, `[n, m]`."""
    about = get(metric)
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != len(columns):
        raise ValueError(f"weights of shape {list(weights.shape)}; [B, {len(columns)}] is wanted")
    step = max(1, _CHUNK // (8 * (columns.shape[1] + 8 * len(columns))))
    parts = []
    for start in range(0, len(weights), step):
        chunk = weights[start : start + step].astype(np.float64)
        parts.append(about.value(chunk @ columns) if about.additive else about.value(columns, chunk))
    return np.concatenate(parts) if parts else np.zeros(0)


def pseudo_values(metric: str, statistics: Statistics) -> np.ndarray:
    """Jackknife pseudo-values `[n]`: their mean is the score, their variance over n estimates the score's variance.

    They turn any metric into a mean of one number per sample, so that one paired analysis with seeds fits all. Of an
    accuracy they are exactly 0 and 100.
    """
    columns = rows(metric, statistics)
    n, about, value = len(columns), get(metric), score(metric, statistics)
    if isinstance(statistics, Sums):
        raise ValueError("sums over the split have no values per sample; keep one row per sample")
    if metric == "accuracy":
        return 100 * columns[:, 0]
    if n == 1:
        return np.array([value])
    if about.additive:
        left = about.value(columns.sum(axis=0) - columns)
    else:
        each = range(0, n, 256)
        left = np.concatenate([resample_rows(metric, columns, 1 - np.eye(n)[i : i + 256]) for i in each])
    found = n * value - (n - 1) * left
    return found + (value - found.mean())


def samples(metric: str, statistics: Statistics) -> int | None:
    """How many samples the statistics say they hold, nothing unpacked; None for Sums.

    Raises ValueError where they are not the metric's, or its arrays are not of one length.
    """
    about = get(metric)
    if isinstance(statistics, Sums):
        return None
    if isinstance(statistics, CorrectBits):
        return statistics.n
    _check_names(about, statistics.arrays)
    shapes = {name: statistics.arrays[name].shape for name in about.arrays}
    lengths = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(lengths) != 1:
        raise ValueError(f"{metric}: arrays of equal length with samples are wanted, their shapes are {shapes}")
    return lengths.pop()


def rows(metric: str, statistics: Statistics) -> np.ndarray:
    """What the metric needs of each sample, float64 `[n, m]`; equal rows are interchangeable in every resample.

    Raises ValueError where the statistics are not the metric's, do not fit each other, or hold no samples.
    """
    about = get(metric)
    arrays = dict(_arrays(about, statistics))
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"{metric}: arrays of equal length with samples are wanted, found {sizes}")
    columns = np.asarray(about.totals(arrays), dtype=np.float64)
    if not np.isfinite(columns).all():
        raise ValueError(f"{metric}: its statistics hold NaN or infinity")
    return columns


def _arrays(about: Metric, statistics: Statistics) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(statistics, CorrectBits):
        if about.name != "accuracy":
            raise ValueError(f"{about.name} is not computed from correct bits; it needs {', '.join(about.arrays)}")
        yield "correct", statistics.numpy()
        return
    held: Mapping[str, object] = statistics.sums if isinstance(statistics, Sums) else statistics.arrays
    _check_names(about, held)
    for name in about.arrays:
        if isinstance(statistics, Sums):
            if not about.additive or name in ("predicted", "label"):
                raise ValueError(f"{about.name} is not computed from sums; it needs a row per sample")
            yield name, np.asarray(statistics.sums[name], dtype=np.float64)[None]
        else:
            yield name, statistics.arrays[name].numpy()


def _check_names(about: Metric, held: Mapping[str, object]) -> None:
    if missing := [name for name in about.arrays if name not in held]:
        raise ValueError(f"{about.name} needs {', '.join(about.arrays)}; missing {', '.join(missing)}")


def _correct(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    right = arrays["correct"] if "correct" in arrays else _flat(arrays["predicted"]) == _flat(arrays["label"])
    return np.stack([right, np.ones(len(right))], axis=1)


def _flat(array: np.ndarray) -> np.ndarray:
    if array.ndim != 1:
        raise ValueError(f"an array of shape {list(array.shape)}; one value per sample is wanted")
    return array


def _pairs(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """One-hot cell of the confusion matrix for each sample, `[n, C*C]`."""
    predicted, label = (_flat(arrays[name]).astype(np.int64) for name in ("predicted", "label"))
    if min(predicted.min(), label.min()) < 0:
        raise ValueError("classes are counted from 0; a negative one was found")
    classes = max(2, int(max(predicted.max(), label.max())) + 1)
    if classes > 100:
        raise ValueError(f"{classes} classes; at most 100 are counted for this metric")
    if 8 * len(label) * classes**2 > LARGEST_STATISTICS:
        raise ValueError(f"{len(label)} samples of {classes} classes are more than this metric counts")
    cells = np.zeros((len(label), classes * classes))
    cells[np.arange(len(label)), label * classes + predicted] = 1
    return cells


def _columns(*names: str) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    return lambda arrays: np.stack([_flat(arrays[name]) for name in names], axis=1)


def _confusion(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    found = arrays["confusion"]
    cells = found.reshape(len(found), -1)
    if _classes(cells) ** 2 != cells.shape[1]:
        raise ValueError(f"confusion counts of shape {list(found.shape)}; [n, C, C] is wanted")
    return cells


def _angles(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    bins = 180 * _BINS_PER_DEGREE
    if arrays["histogram"].shape[1:] != (bins,):
        raise ValueError(f"a histogram of shape {list(arrays['histogram'].shape)}; [n, {bins}] is wanted")
    return np.column_stack([_flat(arrays["angle_sum"]), _flat(arrays["count"]), arrays["histogram"]])


def _classes(cells: np.ndarray) -> int:
    return round(np.sqrt(cells.shape[-1]))


def _matrix(cells: np.ndarray) -> np.ndarray:
    return cells.reshape(*cells.shape[:-1], _classes(cells), _classes(cells))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)


def _accuracy(sums: np.ndarray) -> np.ndarray:
    return 100 * _ratio(sums[..., 0], sums[..., 1])


def _mcc(cells: np.ndarray) -> np.ndarray:
    matrix = _matrix(cells)
    label, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    total, right = label.sum(axis=-1), np.trace(matrix, axis1=-2, axis2=-1)
    above = right * total - (label * predicted).sum(axis=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (label**2).sum(axis=-1))
    return 100 * _ratio(above, np.sqrt(np.maximum(spread, 0)))


def _f1(cells: np.ndarray) -> np.ndarray:
    matrix = _matrix(cells)
    both = matrix[..., 1, :].sum(axis=-1) + matrix[..., :, 1].sum(axis=-1)
    return 100 * _ratio(2 * matrix[..., 1, 1], both)


def _miou(cells: np.ndarray) -> np.ndarray:
    matrix = _matrix(cells)
    inside = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(axis=-1) + matrix.sum(axis=-2) - inside
    return 100 * _ratio(_ratio(inside, union).sum(axis=-1), (union > 0).sum(axis=-1).astype(float))


def _pixel_accuracy(cells: np.ndarray) -> np.ndarray:
    return 100 * _ratio(np.trace(_matrix(cells), axis1=-2, axis2=-1), cells.sum(axis=-1))


def _quotient(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums[..., 0], sums[..., 1])


def _perplexity(sums: np.ndarray) -> np.ndarray:
    """Its logarithm is cut at 100, so that it is finite however wrong a model is."""
    return np.exp(np.minimum(_quotient(sums), 100))


def _median_angle(sums: np.ndarray) -> np.ndarray:
    """Linear within the half degree that holds the middle pixel."""
    histogram = sums[..., 2:]
    below = np.cumsum(histogram, axis=-1)
    half = below[..., -1:] / 2
    place = (below < half).sum(axis=-1, keepdims=True).clip(max=histogram.shape[-1] - 1)
    inside = np.take_along_axis(histogram, place, axis=-1)
    before = np.take_along_axis(below, place, axis=-1) - inside
    return ((place + _ratio(half - before, inside)) / _BINS_PER_DEGREE)[..., 0]


def _within(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    """Percent of pixels with a smaller angle; linear within a half degree that the limit divides (11.25)."""
    edges = (degrees * _BINS_PER_DEGREE - np.arange(180 * _BINS_PER_DEGREE)).clip(0, 1)
    return lambda sums: 100 * _ratio(sums[..., 2:] @ edges, sums[..., 2:].sum(axis=-1))


def _weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of x and y, each `[n]` or `[B, n]`, under weights `[B, n]`; 0 where one of them is constant."""
    (x, spread_x), (y, spread_y) = _centred(x, weights), _centred(y, weights)
    return _ratio((weights * x * y).sum(axis=1), np.sqrt(spread_x * spread_y)).clip(-1, 1)


def _centred(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x less its weighted mean, `[B, n]`, and its weighted sum of squares, `[B]`, 0 where x is constant."""
    total = weights.sum(axis=1, keepdims=True)
    centred = x - _ratio((weights * x).sum(axis=1, keepdims=True), total)
    spread = (weights * centred * centred).sum(axis=1)
    # The mean of a constant is off by rounding, about 1e-16 of it.
    rounding = 1e-24 * total[:, 0] * np.abs(x).max() ** 2
    return centred, np.where(spread > rounding, spread, 0)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rank `[B, n]` of each sample in the resample that holds it `weights[b, i]` times; ties share their mean."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    groups = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(groups, axis=1) - (groups - 1) / 2
    found = np.empty_like(weights)
    found[:, order] = np.repeat(ranks, np.diff(np.r_[starts, len(values)]), axis=1)
    return found


def _pearson(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return 100 * _weighted_correlation(columns[:, 0], columns[:, 1], weights)


def _spearman(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    x, y = (_weighted_ranks(columns[:, place], weights) for place in (0, 1))
    return 100 * _weighted_correlation(x, y, weights)


def _pearson_spearman(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (_pearson(columns, weights) + _spearman(columns, weights)) / 2


#: Metrics of predictions against labels that a constant prediction makes 0.
CORRELATIONS = ("mcc", "pearson_spearman", "pearson", "spearman")


def _made() -> Iterator[Metric]:
    constant = "0 where predictions or labels are all one value"
    pairs, targets, angles = ("predicted", "label"), ("predicted", "target"), ("angle_sum", "count", "histogram")
    yield Metric("accuracy", "accuracy", pairs, _correct, _accuracy)
    yield Metric("mcc", "Matthews correlation", pairs, _pairs, _mcc, degenerate=constant)
    yield Metric("f1", "F1", pairs, _pairs, _f1, degenerate="0 where no sample is or is called positive")
    columns = _columns(*targets)
    both = "mean of Pearson and Spearman correlation"
    yield Metric("pearson_spearman", both, targets, columns, _pearson_spearman, additive=False, degenerate=constant)
    yield Metric("pearson", "Pearson correlation", targets, columns, _pearson, additive=False, degenerate=constant)
    yield Metric("spearman", "Spearman correlation", targets, columns, _spearman, additive=False, degenerate=constant)
    absent = "without classes that neither occur nor are predicted"
    yield Metric("miou", "mean IoU", ("confusion",), _confusion, _miou, degenerate=absent)
    yield Metric("pixel_accuracy", "pixel accuracy", ("confusion",), _confusion, _pixel_accuracy)
    for kind, title in (("abs", "absolute error"), ("rel", "relative error")):
        names = (f"{kind}_sum", "count")
        yield Metric(f"{kind}_err", title, names, _columns(*names), _quotient, False, False, digits=4, unit="")
    for name, title, value in (("mean", "mean angle", _quotient), ("median", "median angle", _median_angle)):
        yield Metric(f"{name}_angle", title, angles, _angles, value, False, False, digits=2, unit="°")
    for degrees in (11.25, 22.5, 30.0):
        yield Metric(f"within_{degrees:g}", f"angle below {degrees:g}°", angles, _angles, _within(degrees))
    names = ("nll_sum", "count")
    yield Metric("perplexity", "perplexity", names, _columns(*names), _perplexity, False, False, digits=2, unit="")


METRICS: dict[str, Metric] = {metric.name: metric for metric in _made()}
