"""Compare the values of every initializer with the law it promises; write docs/evidence/distribution.md.

    python scripts/evidence/distribution.py              10**8 values of each; half an hour on one slow core
    python scripts/evidence/distribution.py 10000000     fewer

Two steps, each exact where it can be. `laws.py` counts the law that the values really have, over all words; how far
that law is from the textbook's needs no sample. Then the values themselves, made block by block by the library, are
compared with the counted law: support, moments, Kolmogorov-Smirnov, chi-square over the segments of the normal's table.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from laws import SIZES, Floats, Law, Walk, counted, promised, walk
from scipy import special, stats

import seedbed as sb
from seedbed import initializers as si
from seedbed import threefry
from seedbed.fill import fill
from seedbed.region import Region

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "distribution.md"
FAILED = 1e-6
ROW = 10_000
BINS = 4096
STARTS: dict[str, si.Initializer] = {
    "Uniform(-1, 1)": si.Uniform(low=-1, high=1),
    "Uniform(5, 10)": si.Uniform(low=5, high=10),
    "Normal(0, 1)": si.Normal(std=1.0),
    "Normal(-1, 0.5)": si.Normal(mean=-1.0, std=0.5),
    "TruncatedNormal, cut 0.5": si.TruncatedNormal(std=1.0, cut=0.5),
    "TruncatedNormal, cut 2": si.TruncatedNormal(std=1.0, cut=2.0),
    "TruncatedNormal, cut 5": si.TruncatedNormal(std=1.0, cut=5.0),
    "Mixture": si.Mixture(
        [(0.25, si.Uniform(low=-10, high=-5)), (0.5, si.Zeros()), (0.25, si.Uniform(low=5, high=10))]
    ),
}


@dataclass
class Page:
    """Lines of the page, and every p-value on it."""

    lines: list[str] = field(default_factory=list)
    chances: list[tuple[float, str]] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        """Lines of text."""
        print(*lines, sep="\n", flush=True)
        self.lines += lines

    def table(self, *heads: str) -> None:
        """The head of a table."""
        self.add("", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|")

    def row(self, *cells: object) -> None:
        """A row of it."""
        self.add("| " + " | ".join(map(str, cells)) + " |")

    def chance(self, p: float, what: str) -> str:
        """A p-value, kept for the verdict, and as it is shown."""
        self.chances.append((p, what))
        return f"{p:.3g}"


def edges() -> Floats:
    """The largest size in each segment of the table, and a sixteenth of it from either end; rising."""
    first = np.array(
        [2.0**e * (1 + (g + part / 16) / 256) for e in range(31) for g in range(256) for part in (0, 1, 15)]
    )
    m = np.unique(np.ceil(first)[first < SIZES].astype(np.int64))
    return np.unique(threefry.quantile(m).astype(np.float64))


def bins_of(start: si.Initializer) -> Floats:
    """Upper ends of bins, float32 values as float64; a value equal to an end is inside."""
    if not isinstance(start, (si.Normal, si.TruncatedNormal)):
        low, high = promised(start).support
        even = np.linspace(low, high, BINS + 1)[1:-1].astype(np.float32)
        return np.unique(np.concatenate((even, np.array([-1e-30, 0], np.float32)))).astype(np.float64)
    size = edges()
    both = np.concatenate((np.nextafter(-size.astype(np.float32), np.float32(-np.inf)), size.astype(np.float32)))
    return np.unique(threefry.scaled(both, start.std, start.mean)).astype(np.float64)


def grouped(law: Law, ends: Floats, least: float) -> Floats:
    """As many of the ends as leave at least this part of the law in each bin."""
    kept, before = [], 0.0
    for end, below in zip(ends.tolist(), law.at_most(ends).tolist(), strict=True):
        if below - before >= least and 1 - below >= least:
            kept.append(end)
            before = below
    return np.array(kept)


def parts(at_most: Floats) -> Floats:
    """What lies in each bin."""
    return np.diff(np.concatenate(([0.0], at_most, [1.0])))


def sample(name: str, start: si.Initializer, count: int) -> np.ndarray:
    """Values of one parameter, a block of rows at a time."""
    spec = sb.ParamSpec(path=f"evidence.{list(STARTS).index(name)}", shape=(count // ROW, ROW))
    (entry,) = sb.plan(sb.Specs((spec,)), recipe=start, seed=0)
    values = np.empty(spec.sizes, np.float32)
    for first in range(0, count // ROW, 500):
        last = min(first + 500, count // ROW)
        fill(entry, Region((first, 0), (last, ROW)), values[first:last])
    return values.reshape(-1)


def power_sums(values: np.ndarray, center: float) -> Floats:
    """Means of the first four powers about `center`."""
    sums = np.zeros(4)
    for block in np.array_split(values, max(1, values.size // 2**20)):
        z = block.astype(np.float64) - center
        power = z.copy()
        for k in range(4):
            sums[k] += power.sum()
            power *= z
    return sums / values.size


def counting(page: Page, name: str, start: si.Initializer, law: Law) -> None:
    """One row: the counted law against the promise."""
    promise = promised(start)
    found = law.moments(promise.center)
    errors = [f"{(found[k] - promise.moments[k]) / promise.moments[1] ** ((k + 1) / 2):.1e}" for k in range(4)]
    page.row(
        name,
        f"{law.values.size:,}",
        f"{law.values[0]:.9g} to {law.values[-1]:.9g}",
        *errors,
        f"{law.distance(promise.cdf):.2e}",
    )


def sampling(page: Page, name: str, start: si.Initializer, law: Law, count: int) -> None:
    """One row: values against the counted law."""
    promise = promised(start)
    values = sample(name, start, count)
    means = power_sums(values, promise.center)
    moments = law.moments(promise.center)
    error = [np.sqrt((moments[2 * k - 1] - moments[k - 1] ** 2) / count) for k in (1, 2, 3, 4)]
    scores = [(means[k] - moments[k]) / error[k] for k in range(4)]
    for k, score in enumerate(scores, 1):
        page.chance(2 * special.ndtr(-abs(score)), f"{name}, moment {k}")
    values.sort()
    last = np.concatenate((np.flatnonzero(values[1:] != values[:-1]), [count - 1]))
    place = np.minimum(np.searchsorted(law.values, values[last]), law.values.size - 1)
    if not np.array_equal(law.values[place], values[last]):
        raise ValueError(f"{name}: a value that no word gives")
    steps = np.abs((last + 1) / count - (np.cumsum(law.counts) / law.words)[place])
    before = np.abs(
        np.concatenate(([0], last[:-1] + 1)) / count - (np.cumsum(law.counts) - law.counts)[place] / law.words
    )
    farthest = max(steps.max(), before.max())
    ks = page.chance(stats.kstwobign.sf(farthest * np.sqrt(count)), f"{name}, Kolmogorov-Smirnov")
    ends = grouped(law, bins_of(start), 25 / count)
    expected = parts(law.at_most(ends)) * count
    observed = np.diff(np.concatenate(([0], np.searchsorted(values, ends, side="right"), [count])))
    chi = ((observed - expected) ** 2 / expected).sum()
    chance = page.chance(2 * min(stats.chi2.sf(chi, ends.size), stats.chi2.cdf(chi, ends.size)), f"{name}, chi-square")
    page.row(
        name, f"{values[0]:.9g} to {values[-1]:.9g}", *(f"{s:+.2f}" for s in scores), f"{farthest:.2e}", ks,
        f"{chi:,.0f} / {ends.size:,}", chance,
    )  # fmt: skip
    if name == "Normal(0, 1)":
        tails(page, values, law)


TAILS: list[tuple[str, ...]] = []


def tails(page: Page, values: np.ndarray, law: Law) -> None:
    """Counts far out, kept for a table of their own."""
    for size in (4.0, 4.5, 5.0, 5.5, 6.0):
        part = 2 * law.at_most(np.array([np.nextafter(-size, -np.inf)]))[0]
        n = int(np.searchsorted(values, -size) + values.size - np.searchsorted(values, size))
        binomial = stats.binom(values.size, part)
        p = min(1.0, 2 * min(binomial.cdf(n), binomial.sf(n - 1)))
        exact = 2 * special.ndtr(-size)
        chance = page.chance(p, f"beyond {size}")
        TAILS.append(
            (f"{size}", f"{part * 2**32:,.0f}", f"{exact * 2**32:,.1f}", f"{part * values.size:.2f}", str(n), chance)
        )


def segments(page: Page, name: str, start: si.Initializer, law: Law) -> None:
    """The parts of the law on both sides of the table's segment edges, against the promise's."""
    promise = promised(start)
    ends = grouped(law, bins_of(start), 2.0**-20)
    real, exact = parts(law.at_most(ends)), parts(promise.cdf(ends))
    divergence = ((real - exact) ** 2 / exact).sum()
    enough = np.sqrt(2 * ends.size) * 5 / divergence
    bound = np.abs(law.at_most(ends) - promise.cdf(ends)).max()
    page.row(
        name,
        f"{ends.size:,}",
        f"{bound:.1e}",
        f"{np.abs(real / exact - 1).max():.2%}",
        f"{divergence:.1e}",
        f"{enough:.0e}",
    )


def orthogonal(page: Page) -> None:
    """Many small matrices, and one of a thousand rows."""
    page.table(
        "matrices", "largest abs(Q'Q - 1)", "KS of an element", "sign of it", "determinant", "trace^2", "trace^4"
    )
    for size, number in ((4, 200_000), (48, 4_000), (1024, 1)):
        spec = sb.ParamSpec(path=f"evidence.orthogonal{size}", shape=(number, size, size), axes=("stack", "out", "in"))
        (entry,) = sb.plan(sb.Specs((spec,)), recipe=si.Orthogonal(), seed=0)
        q = fill(entry).astype(np.float64)
        error = f"{np.abs(q.transpose(0, 2, 1) @ q - np.eye(size)).max():.1e}"
        name = f"{number:,} of {size} x {size}"
        if number == 1:
            page.row(name, error, *["-"] * 5)
            continue
        element, trace = q[:, 1, size - 1], np.trace(q, axis1=1, axis2=2)
        chances = [
            stats.kstest(element**2, stats.beta(0.5, (size - 1) / 2).cdf).pvalue,
            stats.binomtest(int((element > 0).sum()), number).pvalue,
            stats.binomtest(int((np.linalg.slogdet(q)[0] > 0).sum()), number).pvalue,
            stats.ttest_1samp(trace**2, 1).pvalue,  # moments of the trace of a Haar matrix: 1 and 3
            stats.ttest_1samp(trace**4, 3).pvalue,
        ]
        names = ("element", "sign", "determinant", "second moment", "fourth moment")
        page.row(
            name, error, *(page.chance(p, f"Orthogonal, {size}, {n}") for p, n in zip(chances, names, strict=True))
        )


def sparse(page: Page) -> None:
    """Zeros of each column and row, and the values between."""
    page.table("array", "sparsity", "zeros in a column", "rows, chi-square", "p", "other values, KS p")
    for rows, columns, sparsity in ((50, 200_000, 0.3), (7, 300_000, 0.6), (1000, 10_000, 0.501)):
        spec = sb.ParamSpec(path=f"evidence.sparse{rows}", shape=(rows, columns))
        (entry,) = sb.plan(sb.Specs((spec,)), recipe=si.Sparse(sparsity=sparsity, std=1.0), seed=0)
        values = fill(entry)
        zero = values == 0
        each = int(np.ceil(sparsity * rows))
        if not (zero.sum(axis=0) == each).all():
            raise ValueError("a column with another number of zeros")
        part = each / rows
        chi = ((zero.sum(axis=1) - columns * part) ** 2).sum() / (columns * part * (1 - part))
        chi *= (rows - 1) / rows  # zeros of a column are drawn without putting back
        rest = stats.kstest(values[~zero], stats.norm.cdf).pvalue
        name = f"Sparse, {rows} rows"
        p = page.chance(2 * min(stats.chi2.sf(chi, rows - 1), stats.chi2.cdf(chi, rows - 1)), f"{name}, chi-square")
        page.row(
            f"{rows} x {columns:,}", sparsity, f"{each} in each", f"{chi:.1f} / {rows - 1}", p, page.chance(rest, name)
        )


def exhaustive(page: Page) -> dict[int, Walk]:
    """All 2**31 sizes, without a cut and cut at 2: they never rise, or `walk` raises."""
    lowest = threefry.lowest_within(2.0)
    walks = {0: walk(), lowest: walk(lowest)}
    derived = walks[0].cut(lowest)
    if not (
        np.array_equal(derived.sizes, walks[lowest].sizes) and np.array_equal(derived.counts, walks[lowest].counts)
    ):
        raise ValueError("the law derived for a cut is not the one walked")
    page.table("map", "sizes", "largest", "smallest", "largest error", "most words of one size", "largest gap below 4")
    for name, found in zip(("Normal", "TruncatedNormal, cut 2"), walks.values(), strict=True):
        gap = -np.diff(found.sizes[found.sizes < 4].astype(np.float64)).min()
        page.row(
            name, f"{found.sizes.size:,}", f"{found.sizes[0]:.9g}", f"{found.sizes[-1]:.3g}", f"{found.error():.3e}",
            f"{found.counts.max():,} of 2^31", f"{gap:.1e}",
        )  # fmt: skip
    return walks


def main() -> None:
    """Everything, in order, and the verdict first."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10**8
    page = Page()
    page.add("## All words", "", TEXTS["all"])
    walks = exhaustive(page)
    page.add("", TEXTS["laws"])
    moments = ("mean", "2nd", "3rd", "4th")
    page.table("initializer", "values", "support", *moments, "distance")
    laws = {name: counted(start, walks) for name, start in STARTS.items()}
    for name, start in STARTS.items():
        counting(page, name, start, laws[name])
    page.add("", "### At the edges of the segments", "", TEXTS["segments"])
    page.table("initializer", "bins", "farthest at an end", "largest defect", "divergence", "values to tell")
    for name, start in STARTS.items():
        if isinstance(start, (si.Normal, si.TruncatedNormal)):
            segments(page, name, start, laws[name])
    page.add("", f"## {count:,} values of each", "", TEXTS["values"])
    page.table("initializer", "from, to", *moments, "KS", "p", "chi-square / degrees", "p")
    for name, start in STARTS.items():
        sampling(page, name, start, laws.pop(name), count)
    page.add("", "### Beyond 4 standard deviations: Normal(0, 1)", "", TEXTS["tails"])
    page.table("beyond", "words", "of a true normal", "expected", "values", "p")
    for tail in TAILS:
        page.row(*tail)
    page.add("", "## Whole arrays", "", TEXTS["orthogonal"])
    orthogonal(page)
    page.add("", TEXTS["sparse"])
    sparse(page)
    p = np.array([chance for chance, _ in page.chances])
    failed = [what for chance, what in page.chances if chance < FAILED]
    verdict = TEXTS["verdict"].format(
        number=p.size, least=f"{p.min():.2g}", least_of=min(page.chances)[1], failed=", ".join(failed) or "none",
        below=int((p < 0.05).sum()), expected=f"{p.size * 0.05:.1f}", level=f"{p.size * FAILED:.0e}",
    )  # fmt: skip
    PAGE.write_text("\n".join([*verdict.splitlines(), "", *page.lines]) + "\n")
    sys.exit(bool(failed))


TEXTS = {
    "verdict": """# The values and the laws they promise

Made by `python scripts/evidence/distribution.py`, which writes this page anew; no figure is written by hand.

Failures: {failed}.

{number} p-values stand on this page; one below 1e-6 is a failure. With perfect numbers a failure comes with probability
{level} at most. The least is {least} ({least_of}); {below} are below 0.05, {expected} are expected.""",
    "all": """The normal's map was given all 2^31 sizes *m* in order, not a sample of them: no size is above the one before it, and
each word with its top bit set gives the same size, negative. *Largest error* is against the exact quantile of
(m + 1/2) / 2^32. *Largest gap below 4* is between neighboring sizes, the resolution.""",
    "laws": """So the law of the values is known exactly, word by word. Moments about the mean, less the promised ones, in units of the
standard deviation's powers; the largest distance between the law's distribution function and the promised one, over
all real numbers. Walking all words of cut 2 gave the same law as deriving it from the walk without a cut; the other
cuts, scales and shifts are derived.""",
    "segments": """Bins are the table's 7,938 segments on both sides of 0, each cut in three, a sixteenth at either end and the middle;
bins of fewer than 2^12 words are joined to the next. *Farthest at an end*: of the distribution functions.
*Largest defect*: of the words in one bin. *Divergence*: the sum of (real - exact)^2 / exact. *Values to tell*: how many
a chi-square test over these bins needs to see the table at five standard deviations.""",
    "values": """Against the counted law, so that the table's error does not enter: every value is one that some word gives; the means of
powers less the exact ones, in standard errors; Kolmogorov-Smirnov; chi-square over the same bins as above (4,096 equal
bins for the uniform ones), each with at least 25 values expected, on both sides. The distance to the textbook's
distribution function is at most the sum of this one and the counted law's.""",
    "tails": """*Words*: of 2^32, both signs, counted; what a true normal would have beside it. Then the values above.""",
    "orthogonal": """Orthogonal: for a matrix spread evenly (Haar), the square of an element follows a beta law, signs of elements and of the
determinant are fair, the second and fourth moments of the trace are 1 and 3 (P. Diaconis and M. Shahshahani, "On the
eigenvalues of random matrices", Journal of Applied Probability 31A, 1994). Figures after the first are p-values.""",
    "sparse": "Sparse: zeros of each column are counted, those of rows compared with a fair draw without putting back.",
}


if __name__ == "__main__":
    main()
