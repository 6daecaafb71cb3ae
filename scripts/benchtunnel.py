#!/usr/bin/env python3
"""The tunnel against what people use today, and over long and narrow lines; judged against stated bounds.

    benchtunnel.py [--bin target/release/migratekit] [--line target/release/examples/line] [--rounds 5] [--cases fast,far,..] [--json OUT]

- fast: nbdkit -> `migratekit copy` -> SSH -> `migratekit tunnel serve` -> file, with ledger and flush, against
  nbdkit -> nbdcopy -> `ssh -L`, aes128-gcm -> nbdkit -> file without flush; and nbdcopy without SSH, for comparison.
- far: one disk of random bytes over a line of 50 ms and of 200 ms there and back (the example `line`, whose own limit comes first).
- narrow: 100 Mbit/s: by tbf in a network namespace where that can be had (root), else by the line.
- text: text over 20 Mbit/s, by the same means: compressed, and not.
- proof: the whole disk compared through the tunnel, equal and with three blocks changed: bytes counted on the line.

Rules as in bench.py: interleaved rounds, medians of the rounds' own ratios, CPU of all processes, peak memory of each. Needs root or a user
who may run sshd on a high port: nbdkit, nbdcopy, ssh, sshd, ssh-keygen, setpriv, and ip and tc for tbf (scripts/install-test-peers).
"""
import argparse
import json
import os
import pwd
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import mkimage
from bench import machine, table
from benchrun import Run, file_of, keep_memory, nbdkit, wipe

MIB, GIB = 1 << 20, 1 << 30
CIPHER = "aes128-gcm@openssh.com"
NARROW = 100_000_000 // 8
NARROWER = 20_000_000 // 8
MEMORY = 64 * MIB


def noise(path, size):
    """Random bytes: what is carried is what is counted."""
    with open(path, "wb") as out:
        for _ in range(0, size, MIB):
            out.write(os.urandom(MIB))
    return path


class Namespace:
    """A network namespace behind a link of so many bytes a second each way."""

    inside, outside = "10.251.7.2", "10.251.7.1"

    def __init__(self, rate):
        self.name = f"mk{os.getpid()}"
        near, far = f"{self.name}a", f"{self.name}b"
        shape = f"root tbf rate {rate * 8}bit burst 64kb latency 50ms".split()
        within = ["ip", "netns", "exec", self.name]
        for step in (["ip", "netns", "add", self.name], ["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name],
                     ["ip", "addr", "add", f"{self.outside}/30", "dev", near], ["ip", "link", "set", near, "up"],
                     [*within, "ip", "addr", "add", f"{self.inside}/30", "dev", far], [*within, "ip", "link", "set", far, "up"],
                     ["tc", "qdisc", "add", "dev", near, *shape], [*within, "tc", "qdisc", "add", "dev", far, *shape]):
            subprocess.run(step, check=True, capture_output=True)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


class Bench:
    """The image, the programs, the keys, and the folders of one bench."""

    def __init__(self, args, folder):
        self.bin, self.line_bin, self.folder = os.path.abspath(args.bin), os.path.abspath(args.line), folder
        self.dst = os.path.join(folder, "dst")
        self.log = open(os.path.join(folder, "log"), "ab")
        self.size = 256 * MIB if args.quick else 4 * GIB
        self.far_size = 128 * MIB if args.quick else 2 * GIB
        self.narrow_size = 16 * MIB if args.quick else 128 * MIB
        self.text_size = 16 * MIB if args.quick else 64 * MIB
        self.kept = keep_memory(2 * self.size)
        self.image, self.noise = os.path.join(folder, "src.img"), os.path.join(folder, "noise.img")
        self.checked = set()
        os.chmod(folder, 0o755)
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.file(name)], check=True)
        shutil.copy(self.file("key.pub"), self.file("authorized"))
        self.print = subprocess.run(["ssh-keygen", "-l", "-f", self.file("host.pub")], check=True, capture_output=True, text=True).stdout.split()[1]

    def file(self, name):
        return os.path.join(self.folder, name)

    def source(self, which, size):
        """An image, made when it is first wanted."""
        if not os.path.exists(which):
            mkimage.make(which, size, 1) if which == self.image else noise(which, size)
        if os.path.getsize(which) != size:
            os.truncate(which, size)
        return which

    def run(self):
        return Run(self.log)

    def fresh(self, size):
        wipe(self.dst)
        return file_of(os.path.join(self.dst, "dst.img"), size)

    def serve(self, run, path, address="127.0.0.1", within=()):
        port = run.free_port()
        run.start("server", [*within, self.bin, "--quiet", "tunnel", "serve", "--listen", f"{address}:{port}", "--host-key", self.file("host"),
                             "--authorized-keys", self.file("authorized"), "--export", f"disk={path}"])
        if within:
            time.sleep(1)  # Its sockets are not in our own /proc/net.
        else:
            run.wait_port(port)
        return port

    def line(self, run, port, delay_ms, rate=None):
        own, counts = run.free_port(), self.file("counts")
        run.start("line", [self.line_bin, "--to", f"127.0.0.1:{port}", "--listen", f"127.0.0.1:{own}", "--delay-ms", str(delay_ms),
                           "--counts", counts, *(["--rate", str(rate)] if rate else [])])
        run.wait_port(own)
        return own

    def tunnel(self, command, *places, compression="auto"):
        return [self.bin, "--quiet", command, *places, "--ssh-key", self.file("key"), "--ssh-host-key", self.print, "--compression", compression]

    def equal(self, name, source, path):
        if name not in self.checked:
            if subprocess.run(["cmp", "-s", source, path], check=False).returncode != 0:
                raise RuntimeError(f"{name}: the copy differs from the source")
            self.checked.add(name)

    # The runs.

    def ours(self, compression="auto"):
        source, path = self.source(self.image, self.size), self.fresh(self.size)
        with self.run() as run:
            src = nbdkit(run, "source", ["-r", "file", source])
            port = self.serve(run, path)
            result = run.client(self.tunnel("copy", src, f"ssh://127.0.0.1:{port}/disk", compression=compression))
        self.equal(f"ours {compression}", source, path)
        return result

    def theirs(self):
        """nbdcopy through `ssh -L`."""
        source, path = self.source(self.image, self.size), self.fresh(self.size)
        with self.run() as run:
            src = nbdkit(run, "source", ["-r", "file", source])
            dst = nbdkit(run, "target", ["file", path])
            port, forward = run.free_port(), run.free_port()
            config = self.file("sshd_config")
            with open(config, "w", encoding="ascii") as out:
                out.write(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.file('host')}\nUsePAM no\nStrictModes no\nPidFile none\n"
                          f"AuthorizedKeysFile {self.file('authorized')}\nAllowTcpForwarding local\n")
            os.makedirs("/run/sshd", exist_ok=True)
            server = run.start("server", [shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ["PATH"]), "-D", "-e", "-f", config])
            run.wait_port(port)
            user = pwd.getpwuid(os.getuid()).pw_name
            entry = run.start("entry", ["ssh", "-N", "-c", CIPHER, "-i", self.file("key"), "-p", str(port), "-o", "BatchMode=yes", "-o",
                                        "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
                                        "-L", f"127.0.0.1:{forward}:127.0.0.1:{dst.rsplit(':', 1)[1]}", f"{user}@127.0.0.1"])
            run.wait_port(forward)
            result = run.client(["nbdcopy", src, f"nbd://127.0.0.1:{forward}"])
            # The sessions of sshd are its children: their time counts when it has waited for them.
            os.kill(entry.pid, signal.SIGTERM)
            run.reap(entry, "entry", 20)
            end = time.monotonic() + 20
            while open(f"/proc/{server.pid}/task/{server.pid}/children", encoding="ascii").read().strip() and time.monotonic() < end:
                time.sleep(0.01)
        self.equal("theirs", source, path)
        return result

    def plain(self):
        """nbdcopy without SSH."""
        source, path = self.source(self.image, self.size), self.fresh(self.size)
        with self.run() as run:
            src, dst = nbdkit(run, "source", ["-r", "file", source]), nbdkit(run, "target", ["file", path])
            result = run.client(["nbdcopy", src, dst])
        self.equal("plain", source, path)
        return result

    def far(self, round_trip_ms):
        source = self.source(self.noise, self.far_size)
        return self.by_line(source, self.far_size, round_trip_ms, None, "auto")

    def by_line(self, source, size, round_trip_ms, rate, compression):
        path = self.fresh(size)
        with self.run() as run:
            src = nbdkit(run, "source", ["-r", "file", source])
            port = self.line(run, self.serve(run, path), round_trip_ms // 2, rate)
            result = run.client(self.tunnel("copy", src, f"ssh://127.0.0.1:{port}/disk", compression=compression))
        self.equal(f"far {round_trip_ms} {rate} {compression}", source, path)
        return {**result, "rate": size / result["wall"] / 1e6}

    def narrow(self, compression="auto"):
        source = self.file("part.img")
        if not os.path.exists(source):
            noise(source, self.narrow_size)
        return self.by_link(source, self.narrow_size, NARROW, compression)

    def text(self, compression="auto"):
        source = self.file("text.img")
        if not os.path.exists(source):
            mkimage.text(source, self.text_size)
        return self.by_link(source, self.text_size, NARROWER, compression)

    def by_link(self, source, size, rate, compression):
        try:
            space = Namespace(rate)
        except (OSError, subprocess.CalledProcessError):
            return {**self.by_line(source, size, 20, rate, compression), "by": "our line"}
        path = self.fresh(size)
        try:
            with self.run() as run:
                src = nbdkit(run, "source", ["-r", "file", source])
                port = self.serve(run, path, space.inside, ["ip", "netns", "exec", space.name])
                result = run.client(self.tunnel("copy", src, f"ssh://{space.inside}:{port}/disk", compression=compression))
        finally:
            space.close()
        self.equal(f"{rate} {compression}", source, path)
        return {**result, "rate": size / result["wall"] / 1e6, "by": "tbf"}

    def proof(self):
        """A copy that is there already, compared through a line: equal, and with three blocks changed."""
        source, path = self.source(self.image, self.size), self.fresh(self.size)
        shutil.copyfile(source, path)
        moved = []
        for changed in ([], [0, self.size // 2 + 5, self.size - 1]):
            with open(path, "r+b", buffering=0) as out:
                for at in changed:
                    byte = os.pread(out.fileno(), 1, at)
                    os.pwrite(out.fileno(), bytes([byte[0] ^ 1]), at)
            with self.run() as run:
                src = nbdkit(run, "source", ["-r", "file", source])
                port = self.line(run, self.serve(run, path), 5)
                result = run.client(self.tunnel("diff", src, f"ssh://127.0.0.1:{port}/disk"))
            with open(self.file("counts"), encoding="ascii") as text:
                counts = json.load(text)
            moved.append({"bytes": counts["up"] + counts["down"], "blocks": len(changed), "wall": result["wall"]})
        return {"moved": moved}

    def own_limit(self):
        """What the line carries by itself, in MB/s, at no delay and at 100 ms each way."""
        found = {}
        for delay in (0, 25, 100):
            out = subprocess.run([self.line_bin, "--delay-ms", str(delay), "--mib", "1024"], check=True, capture_output=True, text=True).stdout
            found[delay] = float(out.split()[0])
        return found


CASES = {
    "fast": {"ours": Bench.ours, "ours, compression off": lambda b: b.ours("off"), "ssh -L": Bench.theirs, "plain": Bench.plain},
    "far": {"50 ms": lambda b: b.far(50), "200 ms": lambda b: b.far(200)},
    "narrow": {"100 Mbit/s": Bench.narrow, "100 Mbit/s, compression off": lambda b: b.narrow("off")},
    "text": {"20 Mbit/s": Bench.text, "20 Mbit/s, compression off": lambda b: b.text("off")},
    "proof": {},
}


def judge(cases, rounds, once):
    rows = []

    def add(words, ours, peer, ratio, sign, bound, held):
        rows.append((words, ours, peer, ratio, f"{sign} {bound}", held))

    def most(words, value, limit):
        add(words, f"{value / MIB:.1f} MiB", "", "", "<=", f"{limit / MIB:.1f} MiB", value <= limit)

    median = lambda values: statistics.median(list(values))
    if "fast" in cases:
        for words, key, bound in (("wall", "wall", 0.75), ("CPU of all", "cpu", 0.78)):
            ratios = [r["ours"][key] / r["ssh -L"][key] for r in rounds]
            ours, peer, plain = (median(r[side][key] for r in rounds) for side in ("ours", "ssh -L", "plain"))
            add(f"through the tunnel, against nbdcopy through ssh -L, {words}", f"{ours:.2f} s", f"{peer:.2f} s",
                f"{median(ratios):.3f} ({min(ratios):.2f}..{max(ratios):.2f})", "<=", f"{bound:.2f}", median(ratios) <= bound)
            ratios = [r["ours"][key] / r["plain"][key] for r in rounds]
            add(f"the same against nbdcopy without SSH, {words}", f"{ours:.2f} s", f"{plain:.2f} s",
                f"{median(ratios):.3f} ({min(ratios):.2f}..{max(ratios):.2f})", "", "(told)", True)
    for case, side, bound in (("far", "50 ms", 100), ("far", "200 ms", 60), ("narrow", "100 Mbit/s", 0.9 * NARROW / 1e6)):
        if case in cases:
            rate = median(r[side]["rate"] for r in rounds)
            by = f" (by {rounds[0][side]['by']})" if "by" in rounds[0][side] else ""
            add(f"one disk at {side}{by}", f"{rate:.1f} MB/s", "", "", ">=", f"{bound:.1f} MB/s", rate >= bound)
    if "text" in cases:
        rate = median(r["20 Mbit/s"]["rate"] for r in rounds)
        times = rate / (NARROWER / 1e6)
        add(f"text at 20 Mbit/s (by {rounds[0]['20 Mbit/s']['by']})", f"{rate:.1f} MB/s", f"{NARROWER / 1e6:.1f} MB/s", f"{times:.2f}", ">=", "1.80",
            times >= 1.8)
    for case, side in (("fast", "ours"), ("narrow", "100 Mbit/s"), ("text", "20 Mbit/s")):
        if case in cases:
            off = f"{side}, compression off"
            ratios = [r[off]["wall"] / r[side]["wall"] for r in rounds]
            ours, peer = (median(r[which]["wall"] for r in rounds) for which in (side, off))
            add(f"{case}: speed with compression where it pays, against off", f"{ours:.2f} s", f"{peer:.2f} s",
                f"{median(ratios):.3f} ({min(ratios):.2f}..{max(ratios):.2f})", ">=", "0.97", median(ratios) >= 0.97)
    for case in cases:
        for side in CASES[case]:
            for part in ("client", "server"):
                if side not in ("ssh -L", "plain"):
                    most(f"{side}, peak memory of the {part}", max(r[side]["parts"][part]["memory"] for r in rounds), MEMORY)
    for found in once.get("proof", {}).get("moved", []):
        most(f"bytes on the line to compare all, {found['blocks']} blocks differ", found["bytes"], (1 + found["blocks"]) * MIB)
    if "line" in once:
        slowest = min(once["line"].values())
        add("the line's own limit", f"{slowest:.0f} MB/s", "", "", ">=", "300 MB/s", slowest >= 300)
    return rows


def arguments():
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(target, "release/migratekit"))
    parser.add_argument("--line", default=os.path.join(target, "release/examples/line"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--dir", help="where files go (default: /dev/shm)")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 5)
    args.cases = [case for case in args.cases.split(",") if case]
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    missing = [tool for tool in ("nbdkit", "nbdcopy", "ssh", "ssh-keygen", "cmp", "setpriv") if not shutil.which(tool)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; run scripts/install-test-peers")
    for program in (args.bin, args.line):
        if not os.access(program, os.X_OK):
            parser.error(f"{program} is not there; run: make bench-tunnel")
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = args.dir or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    folder = tempfile.mkdtemp(prefix="migratekit-bench.", dir=base)
    rounds, once = [], {}
    try:
        bench = Bench(args, folder)
        if {"far", "narrow", "text"} & set(args.cases):
            once["line"] = bench.own_limit()
            print(f"the line's own limit, MB/s by ms of delay: {once['line']}", file=sys.stderr, flush=True)
        sides = [(side, run) for case in args.cases for side, run in CASES[case].items()]
        for number in range(args.rounds if sides else 0):
            done = {}
            for side, run in sides if number % 2 == 0 else reversed(sides):
                done[side] = run(bench)
                rate = f", {done[side]['rate']:.1f} MB/s" if "rate" in done[side] else ""
                memory = {part: f"{facts['memory'] / MIB:.0f} MiB" for part, facts in done[side]["parts"].items()}
                print(f"round {number + 1} of {args.rounds}: {side}: {done[side]['wall']:.3f} s, CPU {done[side]['cpu']:.2f} s{rate} {memory}",
                      file=sys.stderr, flush=True)
            rounds.append(done)
        if "proof" in args.cases:
            once["proof"] = bench.proof()
    except RuntimeError as error:
        with open(os.path.join(folder, "log"), encoding="utf-8", errors="replace") as text:
            print(text.read()[-2000:], file=sys.stderr)
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(folder)
    rows = judge(args.cases, rounds, once)
    print(table(rows))
    if args.json:
        result = {"machine": machine(), "time": int(time.time()), "quick": args.quick, "rounds": rounds, "once": once,
                  "rows": [dict(zip(("measure", "ours", "peer", "ratio", "bound", "held"), row)) for row in rows]}
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1)
    failed = [row[0] for row in rows if not row[5]]
    if failed:
        sys.exit("bench: missed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
