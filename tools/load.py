"""A mixed load on a server: many clients, more memories, chat and absorb, for some minutes.

    python tools/load.py --out one.json                 # starts `templora serve` itself, ten minutes
    python tools/load.py --out two.json --serve-args="--ray --replicas 2"
    python tools/load.py --url http://127.0.0.1:8000    # a server that runs already

Each client has memories of its own, of which it remembers everything it said and taught. At the
end it reads them back: what is missing was lost. Told, as JSON, are latencies, refusals (429),
errors, what became of the absorbs, and the resident memory of the server's processes over time,
shared pages counted once for each process. Exit status 1: there were errors, or something was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import httpx

NOUNS = (
    "bees",
    "kites",
    "maps",
    "stamps",
    "clocks",
    "shells",
    "coins",
    "letters",
    "roses",
    "boats",
)
PLACES = (
    "roof",
    "harbour",
    "attic",
    "garden",
    "cellar",
    "tower",
    "market",
    "bridge",
    "island",
    "school",
)
PAGE = 4096
SAY_SECONDS = 30


class Tally:
    """Latencies by kind, and what went wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.times = defaultdict(list)
        self.statuses = Counter()
        self.errors = []

    def add(self, kind: str, seconds: float) -> None:
        with self._lock:
            self.times[kind].append(seconds)

    def status(self, status: int) -> None:
        with self._lock:
            self.statuses[status] += 1

    def error(self, what: str) -> None:
        with self._lock:
            self.errors.append(what[:300])

    def line(self, seconds: float) -> str:
        with self._lock:
            counts = ", ".join(f"{kind} {len(times)}" for kind, times in sorted(self.times.items()))
            return f"{seconds:.0f} s: {counts}; errors {len(self.errors)}"


class Client:
    """Talks with memories of its own, and teaches them."""

    def __init__(
        self,
        url: str,
        number: int,
        names: list[str],
        *,
        base: str,
        tally: Tally,
        args: argparse.Namespace,
    ) -> None:
        self._url = url
        self._random = random.Random(args.seed + number)
        self._names = names
        self._base = base
        self._tally = tally
        self._args = args
        self.talks = {name: [] for name in names}
        self.taught = {name: [] for name in names}
        self.jobs = []

    def run(self, deadline: float) -> None:
        with httpx.Client(base_url=self._url, timeout=330) as client:
            while time.monotonic() < deadline:
                name = self._random.choice(self._names)
                teach = self._random.random() < self._args.absorb
                try:
                    (self._teach if teach else self._talk)(client, name, deadline)
                except httpx.HTTPError as error:
                    self._tally.error(f"{type(error).__name__}: {error}")
                if self._args.think:
                    time.sleep(self._random.uniform(0, 2 * self._args.think))

    def _sentence(self, name: str) -> str:
        noun, place = self._random.choice(NOUNS), self._random.choice(PLACES)
        return f"{name} keeps {self._random.randint(2, 99)} {noun} in the {place}."

    def _teach(self, client: httpx.Client, name: str, deadline: float) -> None:
        text = f"Note {len(self.taught[name])}: {self._sentence(name)}"
        began = time.monotonic()
        found = self._sent(client, deadline, f"/v1/memories/{name}/absorb", {"text": text})
        if found is not None and found.status_code == 202:
            self._tally.add("absorb accepted", time.monotonic() - began)
            self.taught[name].append(text)
            self.jobs.append(found.json()["id"])

    def _talk(self, client: httpx.Client, name: str, deadline: float) -> None:
        talk = self.talks[name]
        asked = {"role": "user", "content": f"{self._sentence(name)} Where are they?"}
        body = {
            "model": f"{self._base}:{name}",
            "messages": [*talk, asked],
            "max_tokens": self._args.tokens,
            "stream": True,
        }
        while True:
            began, first, said = time.monotonic(), None, []
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                self._tally.status(answer.status_code)
                if answer.status_code == 429:
                    answer.read()
                elif answer.status_code != 200:
                    self._tally.error(f"{answer.status_code}: {answer.read().decode()}")
                    return
                else:
                    for line in answer.iter_lines():
                        if not line.startswith("data: {"):
                            continue
                        event = json.loads(line[6:])
                        if "error" in event:
                            self._tally.error(f"in a stream: {event['error']}")
                            return
                        for choice in event["choices"]:
                            if piece := choice["delta"].get("content"):
                                first = first or time.monotonic() - began
                                said.append(piece)
                    break
            if time.monotonic() > deadline:
                return
            time.sleep(self._random.uniform(0.2, 1.0))
        if first is not None:
            self._tally.add("first piece", first)
        self._tally.add("reply", time.monotonic() - began)
        self.talks[name] = [*talk, asked, {"role": "assistant", "content": "".join(said)}]

    def _sent(
        self, client: httpx.Client, deadline: float, path: str, body: dict[str, str]
    ) -> httpx.Response | None:
        while True:
            found = client.post(path, json=body)
            self._tally.status(found.status_code)
            if found.status_code != 429:
                if found.status_code >= 400:
                    self._tally.error(f"{found.status_code}: {found.text}")
                return found
            if time.monotonic() > deadline:
                return None
            time.sleep(self._random.uniform(0.2, 1.0))

    def ended(self, client: httpx.Client) -> list[str]:
        """The state of each absorb; "gone" where the server does not remember it."""
        states = []
        for job in self.jobs:
            found = client.get(f"/v1/jobs/{job}")
            known = found.status_code == httpx.codes.OK
            states.append(found.json()["state"] if known else "gone")
        return states

    def lost(self, client: httpx.Client) -> list[str]:
        """What the server does not have of what it acknowledged."""
        missing = []
        for name in self._names:
            if not (self.talks[name] or self.taught[name]):
                continue
            told = client.get(f"/v1/memories/{name}/text").json()
            texts = [one["text"] for one in told["documents"]]
            missing += [text for text in self.taught[name] if text not in texts]
            said = [one["content"] for one in told["messages"]]
            mine = [one["content"] for one in self.talks[name]]
            if said[: len(mine)] != mine:
                missing.append(f"{name}: the conversation differs")
        return missing


class Watch(threading.Thread):
    """Resident memory of a process and all its children, in MB, every few seconds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._stop_now = threading.Event()
        self.megabytes = []

    def run(self) -> None:
        while not self._stop_now.wait(2):
            self.megabytes.append(self._resident())

    def stop(self) -> None:
        self._stop_now.set()
        self.join()

    def _resident(self) -> int:
        children, pages = defaultdict(list), {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                children[int(stat[1])].append(int(entry.name))
                pages[int(entry.name)] = int((entry / "statm").read_text().split()[1])
        waiting, total = [self._pid], 0
        while waiting:
            pid = waiting.pop()
            total += pages.get(pid, 0)
            waiting += children[pid]
        return round(total * PAGE / 1e6)


@contextlib.contextmanager
def running(args: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """A server's address and process id."""
    if args.url:
        yield args.url, None
        return
    with tempfile.TemporaryDirectory() as root:
        command = [
            Path(sys.executable).with_name("templora"), "serve", "--port", "0", "--root", root,
            *shlex.split(args.serve_args),
        ]  # fmt: skip
        process = subprocess.Popen(  # noqa: S603  # our own program
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://[\w.:]+\d", line):
                    break
            else:
                sys.exit("".join(said))
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield found[0], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def percentiles(times: list[float]) -> dict[str, float]:
    every = sorted(times)
    return {
        "count": len(every),
        **{
            f"p{p}": round(every[min(len(every) - 1, len(every) * p // 100)], 3)
            for p in (50, 95, 99)
        },
        "most": round(every[-1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="server that runs already, without /v1")
    parser.add_argument("--serve-args", default="", help="options for `templora serve`")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--memories", type=int, default=64)
    parser.add_argument("--absorb", type=float, default=0.2, help="share of absorbs")
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of a reply")
    parser.add_argument("--think", type=float, default=0.0, help="mean seconds between requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the report, beside the output")
    args = parser.parse_args()
    tally = Tally()
    with running(args) as (url, pid), httpx.Client(base_url=url, timeout=330) as reader:
        base = reader.get("/v1/models").json()["data"][0]["id"]
        shares = [
            [f"load{n}" for n in range(number, args.memories, args.clients)]
            for number in range(args.clients)
        ]
        clients = [
            Client(url, number, names, base=base, tally=tally, args=args)
            for number, names in enumerate(shares)
            if names
        ]
        watch = Watch(pid) if pid else None
        if watch:
            watch.start()
        began = time.monotonic()
        threads = [
            threading.Thread(target=one.run, args=(began + args.seconds,)) for one in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(SAY_SECONDS)
                print(tally.line(time.monotonic() - began), file=sys.stderr, flush=True)
        seconds = time.monotonic() - began
        if watch:
            watch.stop()
        lost = [text for one in clients for text in one.lost(reader)]
        absorbs = Counter(state for one in clients for state in one.ended(reader))
    megabytes = watch.megabytes if watch else []
    half = megabytes[len(megabytes) // 2 :]
    report = {
        "seconds": round(seconds, 1),
        "clients": len(clients),
        "memories": args.memories,
        "server": args.url or f"templora serve {args.serve_args}".strip(),
        "load": {"absorb": args.absorb, "tokens": args.tokens, "think": args.think},
        "requests": tally.statuses.total(),
        "latency": {kind: percentiles(times) for kind, times in sorted(tally.times.items())},
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "errors": len(tally.errors),
        "examples": tally.errors[:5],
        "lost": lost,
        "absorbs": dict(absorbs),
        "resident_mb": {
            "first": megabytes[0],
            "half": half[0],
            "last": megabytes[-1],
            "most": max(megabytes),
            "growth": megabytes[-1] - megabytes[0],
            "growth_second_half": half[-1] - half[0],
        }
        if megabytes
        else None,
        "load_average": os.getloadavg(),
    }
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if tally.errors or lost:
        sys.exit(1)


if __name__ == "__main__":
    main()
