# SPDX-License-Identifier: MIT
"""Measures this package beside its peers: `python -m bench.run [--filter RE] [--quick] ...`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import cases, harness, machine, rows
from bench.harness import Contestant
from bench.rows import Row

PROVIDERS = (
    "fused_rnn",
    "fused_rnn-prepacked",
    "fused_rnn-reset-after",
    "torch.nn",
    "torch.nn-cell",
    "torch.nn-loop",
    "torch.nn-pieces",
    "torch.compile",
    "onnxruntime",
    "jax",
)
# The sweeps draw lines of these; the others add hours and no insight.
_SCALING = ("fused_rnn", "torch.nn", "onnxruntime")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    parser.add_argument("--filter", default="", metavar="RE", help="cases whose name matches")
    parser.add_argument("--modes", default="step,infer,train", help="which of step,infer,train")
    parser.add_argument("--providers", default=",".join(PROVIDERS), help="which of %(default)s")
    parser.add_argument("--threads", type=int, help="instead of each case's own number")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the harness only")
    parser.add_argument("--base", metavar="REF", help="compare with this commit; no peers")
    target = parser.add_mutually_exclusive_group()
    kept = machine.results().relative_to(machine.ROOT)
    for name, what in (
        ("--out", "write the rows, and nothing else, to FILE as JSON lines"),
        ("--merge", "put them into FILE in place of those of the same case, mode and provider"),
    ):
        said = f"{what}; {kept} if not named"
        default = machine.results()
        target.add_argument(name, type=Path, nargs="?", const=default, metavar="FILE", help=said)
    parser.add_argument("--list", action="store_true", help="name the cases and their reasons")
    return parser


@contextmanager
def _built_tree(reference: str) -> Iterator[Path]:
    """A worktree of another commit with its extension built."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        command = ["git", "worktree", "add", "--detach", str(tree), reference]
        subprocess.run(command, cwd=machine.ROOT, check=True, stdout=sys.stderr)
        try:
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(build, cwd=tree, check=True, stdout=sys.stderr)
            yield tree
        finally:
            remove = ["git", "worktree", "remove", "--force", str(tree)]
            subprocess.run(remove, cwd=machine.ROOT, check=True)


@contextmanager
def _contestants(base: str | None, providers: list[str]) -> Iterator[list[Contestant]]:
    if base is None:
        yield [harness.this_tree(providers)]
        return
    with _built_tree(base) as tree:
        label = f"fused_rnn@{machine.git('rev-parse', '--short=7', base)}"
        yield [harness.this_tree(["fused_rnn"]), Contestant(tree, ("fused_rnn",), label)]


def _line(row: Row) -> str:
    if row["p50"] is None:
        return f"  {row['provider']:<21} -  {row['reason']}"
    times = " ".join(f"{row[name] * 1e3:10.4f}" for name in ("p20", "p50", "p80"))
    peak = "" if row["peak_bytes"] is None else f"  {row['peak_bytes'] / 2**20:8.1f} MiB"
    reached = row["bound"] / row["p50"]
    failure = "" if row["failure"] is None else f"  FAILED: {row['failure']}"
    served = "" if row["served_by"] is None else f"  [{row['served_by']}]"
    return (
        f"  {row['provider']:<21} {times} ms  {reached:5.1%} of {row['bound_kind']}"
        f"{peak}{served}{failure}"
    )


def _died(case: cases.Case, mode: str, reason: str) -> Row:
    row = harness.empty_row(case, mode, "fused_rnn")
    return row | {"reason": reason, "failure": reason}


def _measure_all(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of one case in one mode after those of another."""
    record = machine.record()
    effort = harness.QUICK if arguments.quick else harness.Effort()
    modes = arguments.modes.split(",")
    wanted = arguments.providers.split(",")
    with _contestants(arguments.base, wanted) as contestants:
        for case in cases.select(arguments.filter, arguments.threads, arguments.quick):
            chosen = contestants
            if case.group.startswith("scale") and arguments.base is None:
                chosen = [harness.this_tree([name for name in wanted if name in _SCALING])]
            for mode in (mode for mode in case.modes if mode in modes):
                print(f"{case.name} {mode}: {case.reason}")
                try:
                    found = harness.measure(case, mode, chosen, effort)
                except ChildProcessError as error:
                    found = [_died(case, mode, str(error))]
                print(*map(_line, found), sep="\n", flush=True)
                yield [row | record | {"quick": arguments.quick} for row in found]


def _refusal(arguments: argparse.Namespace) -> str | None:
    """Why the rows must not go where they are to go; None if they may."""
    trial = arguments.quick or arguments.base is not None
    if trial and (arguments.merge is not None or arguments.out == machine.results()):
        return "rows of --quick and --base are no results: expected --out with another FILE"
    choices = ("filter", "modes", "providers", "threads")
    default = _parser().get_default
    narrowed = [f"--{name}" for name in choices if getattr(arguments, name) != default(name)]
    if narrowed and arguments.out == machine.results():
        return f"--out would drop what {', '.join(narrowed)} leaves out: expected --merge"
    return None


def _keep(arguments: argparse.Namespace, measured: Iterable[list[Row]]) -> Iterator[list[Row]]:
    """Passes rows on, after they were written."""
    if arguments.merge is not None:
        # Before hours are spent: a file of another machine takes none of these rows.
        before = rows.load([arguments.merge]) if arguments.merge.exists() else []
        rows.machine_of([*before, {"machine": machine.name()}])
        beside = 0
        for found in measured:
            beside += rows.merge(arguments.merge, found)
            yield found
        if beside:
            print(f"{beside} older rows of other providers stand beside new ones")
        return
    with open(arguments.out or os.devnull, "w", encoding="utf-8") as out:
        for found in measured:
            out.writelines(json.dumps(row) + "\n" for row in found)
            out.flush()
            yield found


def main(argv: list[str] | None = None) -> int:
    """Prints every row and writes it; 1 if any of this package's own rows failed."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        for case in cases.select(arguments.filter, arguments.threads):
            print(f"{case.name:60} {','.join(case.modes):12} {case.reason}")
        return 0
    refusal = _refusal(arguments)
    if refusal is not None:
        parser.error(refusal)
    failures = 0
    for found in _keep(arguments, _measure_all(arguments)):
        failures += sum(row["failure"] is not None for row in found)
    print(f"{failures} failed" if failures else "all of this package's rows ran on its kernels")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
