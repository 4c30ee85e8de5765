# SPDX-License-Identifier: MIT
"""The parts of `bench/gpu.sh`, each within six minutes on a machine that is lent for fifteen."""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from bench import machine, rehearsal
from bench.gpu_smoke import PASSES, SMOKES
from bench.rehearsal import REHEARSED
from bench.session import SLOWER, Session
from bench.shards import outcomes

ROOT = machine.ROOT
CARRIED = ROOT / "build" / "carried"
# The folders of kernels, by the names their objects are kept under.
KERNELS = ("cuda", "cpu")
_SMOKE_SECONDS = 20.0
_WORKERS = 6
_THREADS = (1, 2, 4, 8, 16)
# By a form, the kernel that stands for it.
_HEADLINES = {"cluster_forward": "cluster", "cluster_backward": "cluster", "grid_forward": "grid"}


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def fingerprint() -> str:
    """A hash of the kernels' sources, whatever their dates."""
    paths = [path for path in sorted((ROOT / "csrc").rglob("*")) if path.is_file()]
    named = (f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes() for path in paths)
    return hashlib.sha256(b"".join(named)).hexdigest()


def prepare() -> int:
    """Compiles the kernels for the machine that is lent, and notes of what."""
    jobs = f"-j{os.cpu_count()}"
    architectures = os.environ.get("ARCHITECTURES", "90a")
    for name in KERNELS:
        command = ["make", "-C", f"csrc/{name}", jobs, f"BUILD={CARRIED / name}"]
        subprocess.run([*command, f"ARCHITECTURES={architectures}"], cwd=ROOT, check=True)
    for note, text in (
        ("sources", fingerprint()),
        ("commit", machine.commit()),
        ("architectures", architectures),
    ):
        (CARRIED / note).write_text(text + "\n")
    return 0


def note(name: str) -> str:
    """What `prepare` noted; empty where it did not run."""
    path = CARRIED / name
    return path.read_text().strip() if path.exists() else ""


def unpack_objects() -> bool:
    """Puts carried objects where the build looks for them; False where they are of other sources.

    Their dates, which a copy may not keep, would have them compiled anew: here they are the newest.
    """
    if note("sources") != fingerprint():
        return False
    for name in KERNELS:
        target = ROOT / "build" / name
        target.mkdir(parents=True, exist_ok=True)
        for path in CARRIED.glob(f"{name}/*.o"):
            shutil.copyfile(path, target / path.name)
    return True


def build(session: Session) -> bool:
    """Links both extensions, after their few files that need PyTorch's headers."""
    carried = unpack_objects()
    architecture = note("architectures") if carried else rehearsal.architecture()
    session.say("objects: " + ("carried" if carried else f"compiled here, for {architecture}"))
    command = _python("setup.py", "-q", "build_ext", "--inplace")
    # Ninja lies beside Python, and without it files are compiled one after another.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return session.step(
        "build",
        command,
        FUSED_RNN_CUDA="1",
        ARCHITECTURES=architecture,
        MAX_JOBS=str(os.cpu_count()),
        PATH=path,
    )


def smoke(session: Session) -> bool:
    """A process for each form of the kernels and each pass, up to the first form that is wrong.

    Both passes of a form side by side: most of their time goes into the start of PyTorch. So do all
    of Triton's, whose compiler takes longer than that.
    """
    native = [[name] for name, one in SMOKES.items() if one.backend == "native"]
    triton = [name for name, one in SMOKES.items() if one.backend == "triton"]

    def passes(form: tuple[str, str]) -> bool:
        most = _SMOKE_SECONDS * (2 if form[0] in triton else 1)
        return session.step(" ".join(form), _python("-m", "bench.gpu_smoke", *form), most)

    for names in (*native, triton):
        forms = list(product(names, PASSES))
        with ThreadPoolExecutor(len(forms)) as pool:
            if not all(list(pool.map(passes, forms))):
                return False
    return True


def tests(
    session: Session, name: str, *options: str, workers: int, limit: float, most: float
) -> None:
    """Tests in several processes, gone on with where one ended a process; their sums.

    Args:
        options: of pytest.
        limit: seconds of a test.
        most: seconds of them all.
    """
    records = [session.scratch / "logs" / f"{name}-{worker}.jsonl" for worker in range(workers)]
    start, most = time.monotonic(), session.left(most)

    def work(worker: int) -> None:
        command = _python("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider")
        # Its own timer would take the place of the plugin's.
        command += ["-o", "faulthandler_timeout=0", "-p", "bench.shards", *options]
        command += ["--shard", f"{worker}/{workers}", "--limit", str(limit * SLOWER)]
        command += ["--record", str(records[worker])]
        while True:
            rest = start + most - time.monotonic()
            status = session.command(f"{name}-{worker}", command, rest / SLOWER)
            ended = [line["outcome"] for line in outcomes(records[worker])][-1:]
            if status != 1 or ended != ["out of time"]:
                break
        if status not in (0, 1, 5):
            session.failed.append(f"{name}-{worker} ({status})")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    found = [line for record in records for line in outcomes(record)]
    sums = Counter(line["outcome"] for line in found)
    told = [f"{count} {outcome}" for outcome, count in sorted(sums.items())] or ["none ran"]
    session.say(f"{name:<26} {', '.join(told)}, {time.monotonic() - start:.1f} s")
    wrong = [line for line in found if line["outcome"] not in ("passed", "skipped")]
    for line in wrong[:20]:
        session.say(f"    {line['outcome']} {line['test']}: {line.get('why', '')}")
    skipped = {str(line["why"]) for line in found if line["outcome"] == "skipped"}
    session.say(*(f"    skipped: {why}" for why in sorted(skipped)[:5]))
    if wrong or not (sums["passed"] or REHEARSED):
        session.failed.append(name)
    session.pack()


def measure(session: Session) -> None:
    """The rows of the part, then their table, even where time ran out in the middle."""
    folder = Path(os.environ.get("WHEELS", ROOT / "wheels"))
    peers = session.scratch / "peers"
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(peers)
    seconds = session.left() - 20
    command = _python("-m", "bench.gpu", session.part, str(session.out), "--seconds", str(seconds))
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(peers)])
    session.step("measure", command, PYTHONPATH=paths)
    rows = str(session.out / f"gpu-{session.part}.jsonl")
    session.command("table", _python("-m", "bench.gpu_report", rows))
    session.say(*session.log("table").read_text(encoding="utf-8").splitlines())


def first(session: Session) -> None:
    """Whether the kernels are right, and 48 rows of how fast."""
    if build(session) and smoke(session):
        options = (
            "tests/kernels/cuda/test_cuda_device.py",
            "-m",
            "not long",
            *rehearsal.SOME_TESTS,
        )
        tests(session, "cuda", *options, workers=_WORKERS, limit=25, most=130)
        measure(session)


def second(session: Session) -> None:
    """What finds races and waits, and where the time goes; as much as the time holds."""
    if not build(session):
        return
    measure(session)
    tests(
        session,
        "stress",
        "tests/kernels/cuda/test_cuda_device.py",
        "-m",
        "long",
        workers=1,
        limit=60,
        most=60,
    )
    threads(session)
    sanitize(session)
    profile(session)
    tests(
        session,
        "triton",
        "tests/kernels/triton/test_triton_device.py",
        workers=_WORKERS,
        limit=60,
        most=120,
    )
    graphs = (
        *("tests/seq2seq/test_search_graphs.py", "tests/seq2seq/test_language_model.py"),
        *("-k", "on_a_gpu"),
    )
    tests(session, "applications", *graphs, workers=1, limit=60, most=60)


def grid(session: Session) -> None:
    """Every shape, as far as the time holds."""
    if build(session):
        measure(session)


def threads(session: Session) -> None:
    """The CPU kernels beside torch.nn, a process for each number of threads."""
    path = str(session.out / "threads.jsonl")
    for count in _THREADS:
        if count <= (os.cpu_count() or 1):
            command = _python("-m", "bench.cpu_threads", str(count), path)
            session.step(f"threads {count}", command, 30, OMP_NUM_THREADS=str(count))


def _tool(name: str) -> str | None:
    beside = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", name)
    return shutil.which(name) or (str(beside) if beside.exists() else None)


def sanitize(session: Session) -> None:
    """Forms of the kernels under compute-sanitizer, where there is one."""
    tool = _tool("compute-sanitizer")
    if tool is None:
        session.say("compute-sanitizer is not installed")
        return
    for check in ("memcheck", "racecheck", "synccheck"):
        for name in ("cluster", "grid"):
            under = [tool, "--tool", check, "--error-exitcode", "1"]
            smoked = _python("-m", "bench.gpu_smoke", name, "backward")
            session.step(f"{check} {name}", [*under, *smoked], 40)


def profile(session: Session) -> None:
    """What ncu counts in the kernels of the headlines, where it is installed."""
    tool = _tool("ncu")
    if tool is None:
        session.say("ncu is not installed")
        return
    for kernel, name in _HEADLINES.items():
        under = [tool, "--clock-control", "none", "--set", "full", "--launch-count", "1"]
        under += ["--kernel-name", f"regex:{kernel}_kernel"]
        smoked = _python("-m", "bench.gpu_smoke", name, "backward")
        session.step(f"ncu {kernel}", [*under, *smoked], 40)


PARTS: dict[str, Callable[[Session], None]] = {"first": first, "second": second, "grid": grid}


def main(argv: list[str] | None = None) -> int:
    """Runs a part."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__)
    parser.add_argument("part", choices=("prepare", *PARTS))
    parser.add_argument("out", type=Path, nargs="?", help="where results go")
    arguments = parser.parse_args(argv)
    if arguments.part == "prepare":
        return prepare()
    if arguments.out is None:
        parser.error(f"{arguments.part}: expected OUT, the folder of its results, got none")
    if note("commit") and note("sources") == fingerprint():
        os.environ.setdefault("FUSED_RNN_COMMIT", note("commit"))
    session = Session(arguments.part, arguments.out.absolute())
    try:
        PARTS[arguments.part](session)
    finally:
        status = session.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
