"""Run batteries of statistical tests over seedbed's words, as layouts put them beside each other.

    python scripts/evidence/batteries.py smallcrush          all layouts, all pieces; a few minutes
    python scripts/evidence/batteries.py crush seeds         one layout; a quarter of an hour or more
    python scripts/evidence/batteries.py bigcrush seeds      hours
    python scripts/evidence/batteries.py rounds              SmallCrush with fewer rounds: where it begins to fail
    python scripts/evidence/batteries.py dieharder paths     an hour
    python scripts/evidence/batteries.py practrand seeds     as far as --most bytes

Each writes a page under docs/evidence/. Needs a C compiler; TestU01's library and headers where the compiler finds
them, or under the folder named by TESTU01; dieharder, or PractRand's RNG_test, on the PATH. Before anything is run,
the words of the C program are compared with the NumPy reference. `words.h` says what the layouts are.

References:
    P. L'Ecuyer and R. Simard, "TestU01: A C library for empirical testing of random number generators", ACM
    Transactions on Mathematical Software 33(4), 2007, article 22, doi:10.1145/1268776.1268777.
"""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seedbed.plan import key
from seedbed.threefry import Key, runs

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "evidence"
INTERLEAVED = ("seeds", "paths", "draws")
LAYOUTS = ("one", "column", *INTERLEAVED, "place", "starts")
PIECES = ("word", "reverse", "top24", "low31")
CHECKED = [(layout, "word") for layout in LAYOUTS] + [("one", piece) for piece in PIECES[1:]]
STREAMS, PLACE, STRIDE = 1024, 5, 4096
LIBRARIES = (("testu01", "probdist", "mylib"), ("testu01", "testu01probdist", "testu01mylib"))
STARRED = 1e-3
"""A p-value this near to 0 or 1 is marked: TestU01's own bound for its summaries."""

Result = tuple[int, float, str]


class MissingError(Exception):
    """A program or a library is not installed."""


def compiler() -> str:
    """The C compiler."""
    found = shutil.which(os.environ.get("CC", "cc"))
    if not found:
        raise MissingError("there is no C compiler")
    return found


def build(name: str, folder: Path, rounds: int = 20) -> Path:
    """Compile `words` or `battery`; the second with TestU01."""
    program = folder / f"{name}{rounds}"
    command = [compiler(), "-O3", "-march=native", f"-DROUNDS={rounds}", str(HERE / f"{name}.c"), "-o", str(program)]
    prefix = os.environ.get("TESTU01")
    places = [f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib"] if prefix else []
    choices = [[*places, *(f"-l{one}" for one in names), "-lm"] for names in LIBRARIES] if name == "battery" else [[]]
    message = ""
    for libraries in choices:
        done = subprocess.run([*command, *libraries], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return program
        message += done.stderr
    if name == "battery" and re.search(r"bbattery\.h|cannot find -ltestu01", message):
        raise MissingError("TestU01 is not where the compiler looks, nor under TESTU01")
    raise RuntimeError(message)


def stream(words: Path, layout: str, piece: str, first: int, count: int) -> NDArray[np.uint32]:
    """Words from the C program."""
    command = [str(words), layout, piece, str(first), str(count)]
    return np.frombuffer(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, np.uint32)


def key_of(number: int, seed: int) -> Key:
    """Of the layouts' parameters."""
    return key(seed, ("layers", str(number), "weight"))


def whole_words(layout: str, first: int, count: int) -> NDArray[np.uint32]:
    """The same words from the library's NumPy reference; `count` is a multiple of 4,096."""
    if layout == "one":
        return runs(key_of(0, 0), 0, np.array([4 * first]), count)[0]
    if layout == "column":
        return runs(key_of(0, 0), 0, (first + np.arange(count)) * STRIDE, 1)[:, 0]
    if layout in INTERLEAVED:
        of = {"seeds": lambda n: (key_of(0, n), 0), "paths": lambda n: (key_of(n, 0), 0)}
        streams = map(of.get(layout, lambda n: (key_of(0, 0), n)), range(STREAMS))
        made = [runs(k, draw, np.array([4 * first]), count // STREAMS)[0] for k, draw in streams]
        return np.stack(made, axis=1).reshape(-1)
    numbers = range(first, first + count)
    keys = [key_of(n, 0) if layout == "place" else key_of(0, n) for n in numbers]
    return np.array([runs(k, 0, np.array([PLACE]), 1)[0, 0] for k in keys])


def reference(layout: str, piece: str, first: int, count: int) -> NDArray[np.uint32]:
    """What `stream` must give: `count` words, cut out of the pieces of as many whole words as they need."""
    words = whole_words(layout, first, -(-count * 4 // 3 // 4096) * 4096)
    bits = np.unpackbits(words.astype(">u4").view(np.uint8)).reshape(-1, 32)
    bits = {"word": bits, "reverse": bits[:, ::-1], "top24": bits[:, :24], "low31": bits[:, 1:]}[piece]
    return np.packbits(bits.reshape(-1)[: count * 32]).view(">u4").astype(np.uint32)


def compare(words: Path, layout: str, piece: str, first: int = 0, count: int = 12288) -> None:
    """Raise unless the C program's words are the reference's."""
    ours, theirs = stream(words, layout, piece, first, count), reference(layout, piece, first, count)
    if not np.array_equal(ours, theirs):
        raise ValueError(f"{layout}, {piece}, from {first}: the words are not those of the reference")


def run(battery: Path, name: str, layout: str, piece: str) -> list[Result]:
    """Number of test, p-value, name of the statistic."""
    done = subprocess.run(
        [str(battery), name, layout, piece], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    )
    return parsed(done.stdout)


def parsed(text: str) -> list[Result]:
    """The lines that `battery` writes."""
    lines = (line.split("\t") for line in text.splitlines())
    return [(int(test), float(p), statistic) for test, p, statistic in lines]


def distance(p: float) -> float:
    """From a p-value to the nearer of 0 and 1."""
    return min(p, 1 - p)


def shown(p: float) -> str:
    """A p-value in 8 characters; `*` after those near 0 or 1, `!` after those that no luck explains."""
    text = f"{p:.4f}" if STARRED < p < 1 - STARRED else f"{p:.1e}" if p <= STARRED else f"1-{1 - p:.0e}"
    return text + ("!" if distance(p) < 1e-9 else "*" if distance(p) <= STARRED else " ")


def verdict(results: list[Result]) -> str:
    """Three sentences on all p-values of a page."""
    p = np.array([value for _, value, _ in results])
    starred = sorted(r for r in results if distance(r[1]) <= STARRED)
    lines = [f"{p.size} p-values, from {p.min():.2g} to 1 - {1 - p.max():.2g}."]
    lines += [f"At most 0.001 from 0 or 1: {len(starred)}; {p.size * 2 * STARRED:.2g} are expected of perfect words."]
    lines += [f"    test {test}, {name}: {value:.6g}" for test, value, name in starred]
    lines += [f"Nearer than 1e-9, a failure: {sum(distance(value) < 1e-9 for value in p)}."]
    return "\n".join(lines)


def smallcrush(battery: Path) -> str:
    """A row for each layout and each piece."""
    rows, everything, names = [], [], []
    for layout in LAYOUTS:
        for piece in PIECES:
            results = run(battery, "smallcrush", layout, piece)
            everything += results
            names = [f"{n}. {name}" for n, (_, _, name) in enumerate(results, 1)]
            rows.append(f"{layout:<7}{piece:<8}" + "".join(f"{shown(p):>9}" for _, p, _ in results).rstrip())
            print(rows[-1], flush=True)
    head = f"{'':<15}" + "".join(f"{n:>8} " for n in range(1, len(names) + 1))
    return "\n".join([verdict(everything), "", ", ".join(names), "", head.rstrip(), *rows])


def rounds(folder: Path) -> str:
    """How many of the 15 statistics fail, with fewer rounds than the 20 of the contract."""
    lines = ["Failures (nearer than 1e-9 to 0 or 1) among the 15 statistics, by rounds.", "", "rounds    one  seeds"]
    for number in range(21):
        battery = build("battery", folder, number)
        failed = [
            sum(distance(p) < 1e-9 for _, p, _ in run(battery, "smallcrush", x, "word")) for x in ("one", "seeds")
        ]
        lines.append(f"{number:>6}{failed[0]:>7}{failed[1]:>7}")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def large(battery: Path, name: str, layout: str, piece: str, results: str | None) -> str:
    """Every statistic of Crush or BigCrush; from a file of `battery`'s lines where there is one."""
    found = parsed(Path(results).read_text()) if results else run(battery, name, layout, piece)
    tests = len({test for test, _, _ in found})
    lines = [f"{tests} tests, {len(found)} statistics.", verdict(found), ""]
    return "\n".join(lines + [f"{test:>4}  {name:<32}{shown(p):>9}".rstrip() for test, p, name in found])


def piped(words: Path, layout: str, piece: str, command: list[str]) -> str:
    """What a program prints that reads words without end."""
    if not shutil.which(command[0]):
        raise MissingError(f"{command[0]} is not installed")
    with subprocess.Popen([str(words), layout, piece, "0"], stdout=subprocess.PIPE) as source:
        text = subprocess.run(command, stdin=source.stdout, stdout=subprocess.PIPE, text=True, check=True).stdout
        source.terminate()
    kept = [line.rstrip() for line in text.splitlines() if not re.search(r"seed|rands/second|stdin_input_raw", line)]
    return re.sub(r", time= .*seconds", "", "\n".join(kept)).strip()


def title(arguments: argparse.Namespace) -> str:
    """The first lines of a page."""
    tool = {"dieharder": "dieharder 3.31.1", "practrand": "PractRand 0.95"}.get(arguments.battery, "TestU01 1.2.3")
    options = [arguments.battery, arguments.layout or "", arguments.piece if arguments.piece != "word" else ""]
    options += [f"--most {arguments.most}" if arguments.battery == "practrand" else ""]
    command = " ".join(["python scripts/evidence/batteries.py", *filter(None, options)])
    where = f"; layout {arguments.layout}, {arguments.piece}" if arguments.layout else ""
    return f"{arguments.battery}, {tool}{where}\n{command}\n\n"


def main() -> None:
    """Run one battery and write its page."""
    parser = argparse.ArgumentParser(description="Batteries of statistical tests over seedbed's words.")
    parser.add_argument("battery", choices=["smallcrush", "crush", "bigcrush", "rounds", "dieharder", "practrand"])
    parser.add_argument("layout", nargs="?", choices=LAYOUTS)
    parser.add_argument("piece", nargs="?", choices=PIECES, default="word")
    parser.add_argument("--most", default="32GB", help="bytes that PractRand reads")
    parser.add_argument("--results", help="lines written by an earlier run of `battery`, in place of a new one")
    arguments = parser.parse_args()
    name, layout, piece = arguments.battery, arguments.layout, arguments.piece
    if (layout is None) != (name in ("smallcrush", "rounds")):
        parser.error(f"{name}: {'takes no layout' if layout else 'which layout?'}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        words = build("words", folder)
        for one, bits in CHECKED:
            compare(words, one, bits)
            compare(words, one, bits, 2**32 - 3)  # where the counter's second word begins
        if name == "smallcrush":
            text = smallcrush(build("battery", folder))
        elif name == "rounds":
            text = rounds(folder)
        elif name == "dieharder":
            text = piped(words, layout, piece, ["dieharder", "-g", "200", "-a"])
        elif name == "practrand":
            text = piped(words, layout, piece, ["RNG_test", "stdin32", "-tlmax", arguments.most])
        else:
            text = large(build("battery", folder), name, layout, piece, arguments.results)
    page = PAGES / "-".join(filter(None, [name, layout, piece if piece != "word" else ""]))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".txt").write_text(title(arguments) + text + "\n")


if __name__ == "__main__":
    main()
