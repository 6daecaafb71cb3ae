#!/usr/bin/env python3
"""Ours against the peers: copies over loopback, interleaved, judged against stated bounds.

    bench.py [--bin target/release/migratekit] [--rounds 9] [--cases copy,serve,..] [--image FILE] [--json OUT] [--quick]

Every round runs each side of each case once, in turn, the order turned round every other round, so that a noisy machine spoils all
alike; the CPU of our server is taken over three times the rounds (TIMES). The memory they fill is kept from going back to the machine
below between runs (benchrun.keep_memory). Each program is a process of its own, servers and clients meet on 127.0.0.1. Wall time is
that of the client, from its start to its end; CPU is user + system over all processes of the run (wait4); memory is the peak resident
set. A ratio is the median of the rounds' own ratios. The exit status is 1 when a bound is missed or a copy differs, with everything
still printed.

The raw rounds go to --json; the table on stdout is Markdown. --quick takes a small image and 3 rounds: it tries the bench,
its figures mean nothing. Needs: nbdkit, nbdcopy, fio, cmp, setpriv (scripts/install-test-peers).
"""
import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import mkimage
from benchrun import Run, file_of, keep_memory, nbdkit, requests_of, wipe

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
EXTENT = 64 << 10


class Bench:
    """The image, the program under test, and the folders of one bench."""

    def __init__(self, args, folder):
        self.bin, self.folder, self.dst = os.path.abspath(args.bin), folder, os.path.join(folder, "dst")
        self.log = open(os.path.join(folder, "log"), "ab")
        self.image = os.path.abspath(args.image) if args.image else os.path.join(folder, "src.img")
        self.size = os.path.getsize(self.image) if args.image else 256 * MIB if args.quick else 4 * GIB
        self.kept = keep_memory(2 * self.size)
        if not args.image:
            mkimage.make(self.image, self.size, 1)
        self.fio_time, self.big_end = (1, 32 * MIB) if args.quick else (3, GIB)
        self.checked = set()

    def run(self):
        return Run(self.log)

    def fresh(self, size=None):
        """An empty destination of the image's size, alone in its folder (a ledger lies beside it)."""
        wipe(self.dst)
        return file_of(os.path.join(self.dst, "dst.img"), self.size if size is None else size)

    def serve(self, run, path):
        """Our server for one file, with the defaults users get."""
        port = run.free_port()
        run.start("server", [self.bin, "--quiet", "nbd", "serve", f"disk={path}", "--listen", f"127.0.0.1:{port}"])
        run.wait_port(port)
        return f"nbd://127.0.0.1:{port}/disk"

    def ours(self, *args):
        return [self.bin, "--quiet", "copy", *args]

    def equal(self, name, path):
        """Once for each kind of run: the copy is the image, told by cmp."""
        if name not in self.checked:
            if subprocess.run(["cmp", "-s", self.image, path], check=False).returncode != 0:
                raise RuntimeError(f"{name}: the copy differs from the source")
            self.checked.add(name)

    # The runs. Each gives {wall, cpu, memory, parts: {client, source, target, server: {cpu, memory}}}.

    def copy(self, name, source="nbdkit", target="nbdkit", client="nbdcopy"):
        """One copy from a server to a server or (target="file") a file."""
        path = self.fresh()
        with self.run() as run:
            src = nbdkit(run, "source", ["-r", "file", self.image]) if source == "nbdkit" else self.serve(run, self.image)
            if target == "nbdkit":
                dst = nbdkit(run, "target", ["file", path])
            elif target == "ours":
                dst = self.serve(run, path)
            else:
                wipe(self.dst)
                dst = path
            result = run.client(["nbdcopy", src, dst] if client == "nbdcopy" else self.ours(src, dst))
        self.equal(name, path)
        return result

    def increment(self):
        """A full copy, then 1 % of it again: what lies at the extents is spoiled before, so that it must come anew. The time is that
        from the first request to the last flush, and the bytes are those read, both as the servers' own logs have them."""
        full = self.copy("increment-full", client="ours")
        path, listed = os.path.join(self.dst, "dst.img"), os.path.join(self.folder, "extents.json")
        changed = mkimage.change(path, 1, EXTENT, 7)
        with open(listed, "w", encoding="ascii") as out:
            json.dump(changed, out)
        logs = [os.path.join(self.folder, name) for name in ("source.log", "target.log")]
        with self.run() as run:
            src = nbdkit(run, "source", ["-r", "--filter=log", "file", self.image, f"logfile={logs[0]}"])
            dst = nbdkit(run, "target", ["--filter=log", "file", path, f"logfile={logs[1]}"])
            result = run.client(self.ours("--extents", listed, src, dst))
        self.checked.discard("increment")
        self.equal("increment", path)
        requests, writes = requests_of(logs[0]), requests_of(logs[1])
        flushes = [at for at, what, _ in writes if what == "...Flush"]
        if not flushes:
            raise RuntimeError("increment: the target was never flushed")
        for log in logs:
            os.unlink(log)
        return {**result, "full_wall": full["wall"], "span": max(flushes) - min(at for at, _, _ in requests + writes),
                "read": sum(count for _, what, count in requests if what == "Read"),
                "allowed": sum(e["length"] for e in changed) + EXTENT * len(changed)}

    def fio(self, ours, mode):
        """4 KiB random requests, 16 at a time: requests per second."""
        wipe(self.dst)
        path = self.image if mode == "randread" else self.fresh(min(self.size, GIB))
        if mode == "randread" and ours:
            # A ledger is not kept beside somebody's image: the server gets the image under a name in our folder.
            path = os.path.join(self.dst, "src.img")
            os.symlink(self.image, path)
        with self.run() as run:
            uri = self.serve(run, path) if ours else nbdkit(run, "target", ["file", path])
            out = os.path.join(self.folder, "fio.json")
            result = run.client(["fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={mode}", "--bs=4k", "--iodepth=16",
                                 f"--size={min(self.size, GIB)}", "--time_based", f"--runtime={self.fio_time}", "--randseed=1",
                                 "--norandommap", "--output-format=json", f"--output={out}"], folder=self.folder)
        with open(out, encoding="utf-8") as text:
            report = text.read()
        job = json.loads(report[report.index("{"):])["jobs"][0]
        return {**result, "rate": job["read" if mode == "randread" else "write"]["iops"]}

    def sparse(self):
        """16 TiB with data at both ends, to our own server: memory of both, and the ends compared."""
        source = file_of(os.path.join(self.folder, "huge.img"), 16 * TIB)
        block = os.urandom(MIB)
        ends = [at for first in (0, 16 * TIB - self.big_end) for at in range(first, first + self.big_end, MIB)]
        with open(source, "r+b", buffering=0) as out:
            for at in ends:
                os.pwrite(out.fileno(), at.to_bytes(8, "little") + block[8:], at)
        path = self.fresh(16 * TIB)
        try:
            with self.run() as run:
                src = nbdkit(run, "source", ["-r", "file", source])
                result = run.client(self.ours(src, self.serve(run, path)))
            with open(path, "rb", buffering=0) as copy:
                if any(os.pread(copy.fileno(), MIB, at) != at.to_bytes(8, "little") + block[8:] for at in ends):
                    raise RuntimeError("sparse: the copy differs from the source")
            if os.stat(path).st_blocks * 512 > 2 * self.big_end + 64 * MIB:
                raise RuntimeError("sparse: the copy of a sparse disk is not sparse")
        finally:
            os.unlink(source)
            wipe(self.dst)
        return result


# What runs in a round: case -> the names of its sides. A side that several cases need runs once in a round.
SIDES = {
    "nbdcopy": lambda b: b.copy("nbdcopy"),
    "ours": lambda b: b.copy("ours", client="ours"),
    "ours+server": lambda b: b.copy("ours+server", target="ours", client="ours"),
    "nbdcopy>server": lambda b: b.copy("nbdcopy>server", target="ours"),
    "server>nbdcopy": lambda b: b.copy("server>nbdcopy", source="ours"),
    "nbdcopy file": lambda b: b.copy("nbdcopy file", target="file"),
    "ours file": lambda b: b.copy("ours file", target="file", client="ours"),
    "fio read nbdkit": lambda b: b.fio(False, "randread"),
    "fio read ours": lambda b: b.fio(True, "randread"),
    "fio write nbdkit": lambda b: b.fio(False, "randwrite"),
    "fio write ours": lambda b: b.fio(True, "randwrite"),
    "increment": Bench.increment,
}

CASES = {
    "copy": ["nbdcopy", "ours"],
    "serve": ["nbdcopy", "ours+server"],
    "server-cpu": ["nbdcopy", "nbdcopy>server", "server>nbdcopy"],
    "file": ["nbdcopy file", "ours file"],
    "fio": ["fio read nbdkit", "fio read ours", "fio write nbdkit", "fio write ours"],
    "increment": ["increment"],
    "sparse": [],
}


# So many times the rounds of the others: runs of a second, whose CPU is the kernel's and jumps with what the neighbours do.
TIMES = {"server-cpu": 3}


def wall(run):
    return run["wall"]


def cpu(run):
    return run["cpu"]


def cpu_of(part):
    return lambda run: run["parts"][part]["cpu"]


def rate(run):
    return run["rate"]


# case, what is measured, side of ours, how, side of the peer, how, sign, bound on the median of paired ratios, unit
RATIOS = [
    ("copy", "nbdkit -> client -> nbdkit, wall", "ours", wall, "nbdcopy", wall, "<=", 1.00, "s"),
    ("copy", "nbdkit -> client -> nbdkit, CPU of all", "ours", cpu, "nbdcopy", cpu, "<=", 0.93, "s"),
    ("serve", "nbdkit -> our client -> our server, wall", "ours+server", wall, "nbdcopy", wall, "<=", 0.95, "s"),
    ("serve", "nbdkit -> our client -> our server, CPU of all", "ours+server", cpu, "nbdcopy", cpu, "<=", 0.92, "s"),
    ("server-cpu", "our server as target of nbdcopy, its CPU", "nbdcopy>server", cpu_of("server"), "nbdcopy", cpu_of("target"), "<=", 0.85, "s"),
    ("server-cpu", "our server as source of nbdcopy, its CPU", "server>nbdcopy", cpu_of("server"), "nbdcopy", cpu_of("source"), "<=", 0.85, "s"),
    ("file", "NBD to a file, wall", "ours file", wall, "nbdcopy file", wall, "<=", 1.00, "s"),
    ("fio", "4 KiB random reads, depth 16, rate", "fio read ours", rate, "fio read nbdkit", rate, ">=", 1.00, "/s"),
    ("fio", "4 KiB random writes, depth 16, rate", "fio write ours", rate, "fio write nbdkit", rate, ">=", 0.90, "/s"),
    ("increment", "1 % in 64 KiB extents, first request to last flush, against the full copy", "increment", lambda r: r["span"], "increment", lambda r: r["full_wall"], "<=", 0.06, "s"),
]


def judge(cases, rounds, once):
    """Rows of the table: measure, ours, peer, ratio, bound, held."""
    rows = []
    for case, words, ours, of_ours, peer, of_peer, sign, bound, unit in RATIOS:
        pairs = [(of_ours(r[ours]), of_peer(r[peer])) for r in rounds if ours in r and peer in r]
        if case in cases and pairs:
            ratio = statistics.median(a / b for a, b in pairs)
            spread = f"{min(a / b for a, b in pairs):.2f}..{max(a / b for a, b in pairs):.2f}"
            a, b = (statistics.median(side) for side in zip(*pairs))
            held = ratio <= bound if sign == "<=" else ratio >= bound
            digits = 2 if unit == "s" else 0
            rows.append((words, f"{a:.{digits}f} {unit}", f"{b:.{digits}f} {unit}", f"{ratio:.3f} ({spread})", f"{sign} {bound:.2f}", held))

    def most(words, value, limit, peer=""):
        rows.append((words, f"{value / MIB:.1f} MiB", peer, "", f"<= {limit / MIB:.1f} MiB", value <= limit))

    if "copy" in cases:
        peak = {side: max(r[side]["parts"]["client"]["memory"] for r in rounds if side in r) for side in CASES["copy"]}
        most("peak memory of the client", peak["ours"], 40 * MIB, f"{peak['nbdcopy'] / MIB:.1f} MiB")
    if "increment" in cases:
        done = [r["increment"] for r in rounds if "increment" in r]
        most("bytes read at the source for the increment", max(r["read"] for r in done), done[0]["allowed"])
    if "sparse" in cases:
        for part in ("client", "server"):
            most(f"16 TiB sparse disk, peak memory of the {part}", once["sparse"]["parts"][part]["memory"], 64 * MIB)
    return rows


def table(rows):
    lines = ["| measure | ours | peer | ratio (min..max) | bound | |", "|---|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join((*row[:5], "held" if row[5] else "**MISSED**")) + " |" for row in rows]
    return "\n".join(lines)


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as text:
        model = next((line.split(":", 1)[1].strip() for line in text if line.startswith("model name")), platform.machine())
    version = lambda *argv: (subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines() or ["?"])[0]
    return {"processors": os.cpu_count(), "model": model, "kernel": platform.release(), "load": os.getloadavg()[0],
            "nbdkit": version("nbdkit", "--version"), "nbdcopy": version("nbdcopy", "--version"), "fio": version("fio", "--version")}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/migratekit"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--image", help="a raw image to copy, never changed (default: 4 GiB by mkimage.py)")
    parser.add_argument("--dir", help="where files go (default: /dev/shm)")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 9)
    args.cases = [case for case in args.cases.split(",") if case]
    unknown = [case for case in args.cases if case not in CASES]
    missing = [tool for tool in ("nbdkit", "nbdcopy", "fio", "cmp", "setpriv") if not shutil.which(tool)]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; run scripts/install-test-peers")
    if not os.access(args.bin, os.X_OK):
        parser.error(f"{args.bin} is not there; run: make build")
    return args


def main():
    args = arguments()
    # A signal must not leave servers and gigabytes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = args.dir or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    folder = tempfile.mkdtemp(prefix="migratekit-bench.", dir=base)
    rounds, once, failed = [], {}, []
    try:
        bench = Bench(args, folder)
        most = args.rounds * max(TIMES.get(case, 1) for case in args.cases)
        for number in range(most):
            cases = [case for case in args.cases if number < args.rounds * TIMES.get(case, 1)]
            sides = list(dict.fromkeys(side for case in cases for side in CASES[case]))
            done = {}
            for side in sides if number % 2 == 0 else reversed(sides):
                done[side] = SIDES[side](bench)
                words = f"{done[side]['rate']:.0f} /s" if "rate" in done[side] else f"{done[side]['wall']:.3f} s, CPU {done[side]['cpu']:.2f} s"
                print(f"round {number + 1} of {most}: {side}: {words}", file=sys.stderr, flush=True)
            rounds.append(done)
        if "sparse" in args.cases:
            once["sparse"] = bench.sparse()
        facts = {**machine(), "image_bytes": bench.size, "image_allocated": os.stat(bench.image).st_blocks * 512}
    except RuntimeError as error:
        with open(os.path.join(folder, "log"), encoding="utf-8", errors="replace") as text:
            print(text.read()[-2000:], file=sys.stderr)
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(folder)
    rows = judge(args.cases, rounds, once)
    print(table(rows))
    if args.json:
        result = {"machine": facts, "time": int(time.time()), "quick": args.quick, "rounds": rounds, "once": once,
                  "rows": [dict(zip(("measure", "ours", "peer", "ratio", "bound", "held"), row)) for row in rows]}
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1)
    failed = [row[0] for row in rows if not row[5]]
    if failed:
        sys.exit("bench: missed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
