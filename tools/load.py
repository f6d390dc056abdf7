"""A mixed load on a server: many clients, more memories, chat and absorb, for some minutes.

    python tools/load.py --out one.json                 # starts `templora serve` itself, ten minutes
    python tools/load.py --out two.json --serve-args="--ray --replicas 2"
    python tools/load.py --url http://127.0.0.1:8000    # a server that runs already

Each client has memories of its own, and remembers everything it said to them and taught them. At
the end it reads them back: what is missing was lost. The report, as JSON, has latencies, refusals
(429), errors, how the absorbs ended, and the resident memory of the server's processes over time,
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
from typing import TypeAlias

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
PAGE_BYTES = 4096
REPORT_SECONDS = 30
Message: TypeAlias = dict[str, str]


class Tally:
    """Latencies by kind, counts of statuses, and errors, of all clients together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[int] = Counter()
        self.errors: list[str] = []

    def add_time(self, kind: str, seconds: float) -> None:
        """Add a latency."""
        with self._lock:
            self.times[kind].append(seconds)

    def add_status(self, status: int) -> None:
        """Count a status."""
        with self._lock:
            self.statuses[status] += 1

    def add_error(self, message: str) -> None:
        """Add an error, cut to a readable length."""
        with self._lock:
            self.errors.append(message[:300])

    def line(self, seconds: float) -> str:
        """Return the counts so far in a line."""
        with self._lock:
            counts = ", ".join(f"{kind} {len(times)}" for kind, times in sorted(self.times.items()))
            return f"{seconds:.0f} s: {counts}; errors {len(self.errors)}"


class Client:
    """A client in a thread of its own, which talks with its memories and teaches them."""

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
        self.conversations: dict[str, list[Message]] = {name: [] for name in names}
        self.documents: dict[str, list[str]] = {name: [] for name in names}
        self.jobs: list[str] = []

    def run(self, deadline: float) -> None:
        """Send one request after the other until the deadline."""
        with httpx.Client(base_url=self._url, timeout=330) as client:
            while time.monotonic() < deadline:
                name = self._random.choice(self._names)
                teach = self._random.random() < self._args.absorb
                try:
                    (self._teach if teach else self._talk)(client, name, deadline)
                except httpx.HTTPError as error:
                    self._tally.add_error(f"{type(error).__name__}: {error}")
                if self._args.think:
                    time.sleep(self._random.uniform(0, 2 * self._args.think))

    def _sentence(self, name: str) -> str:
        noun, place = self._random.choice(NOUNS), self._random.choice(PLACES)
        return f"{name} keeps {self._random.randint(2, 99)} {noun} in the {place}."

    def _teach(self, client: httpx.Client, name: str, deadline: float) -> None:
        text = f"Note {len(self.documents[name])}: {self._sentence(name)}"
        start_time = time.monotonic()
        response = self._post(client, deadline, f"/v1/memories/{name}/absorb", {"text": text})
        if response is not None and response.status_code == 202:
            self._tally.add_time("absorb accepted", time.monotonic() - start_time)
            self.documents[name].append(text)
            self.jobs.append(response.json()["id"])

    def _talk(self, client: httpx.Client, name: str, deadline: float) -> None:
        conversation = self.conversations[name]
        question = {"role": "user", "content": f"{self._sentence(name)} Where are they?"}
        body = {
            "model": f"{self._base}:{name}",
            "messages": [*conversation, question],
            "max_tokens": self._args.tokens,
            "stream": True,
        }
        while True:
            start_time, first_piece_seconds = time.monotonic(), None
            pieces: list[str] = []
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                self._tally.add_status(response.status_code)
                if response.status_code == 429:
                    response.read()
                elif response.status_code != 200:
                    self._tally.add_error(f"{response.status_code}: {response.read().decode()}")
                    return
                else:
                    for line in response.iter_lines():
                        if not line.startswith("data: {"):
                            continue
                        event = json.loads(line[6:])
                        if "error" in event:
                            self._tally.add_error(f"in a stream: {event['error']}")
                            return
                        for choice in event["choices"]:
                            if piece := choice["delta"].get("content"):
                                first_piece_seconds = (
                                    first_piece_seconds or time.monotonic() - start_time
                                )
                                pieces.append(piece)
                    break
            if time.monotonic() > deadline:
                return
            time.sleep(self._random.uniform(0.2, 1.0))
        if first_piece_seconds is not None:
            self._tally.add_time("first piece", first_piece_seconds)
        self._tally.add_time("reply", time.monotonic() - start_time)
        answer = {"role": "assistant", "content": "".join(pieces)}
        self.conversations[name] = [*conversation, question, answer]

    def _post(
        self, client: httpx.Client, deadline: float, path: str, body: dict[str, str]
    ) -> httpx.Response | None:
        """Send a request until it is not refused; None: refused until the deadline."""
        while True:
            response = client.post(path, json=body)
            self._tally.add_status(response.status_code)
            if response.status_code != 429:
                if response.status_code >= 400:
                    self._tally.add_error(f"{response.status_code}: {response.text}")
                return response
            if time.monotonic() > deadline:
                return None
            time.sleep(self._random.uniform(0.2, 1.0))

    def job_states(self, client: httpx.Client) -> list[str]:
        """Return the state of each absorb; "gone" where the server does not remember it."""
        states = []
        for job in self.jobs:
            response = client.get(f"/v1/jobs/{job}")
            known = response.status_code == httpx.codes.OK
            states.append(response.json()["state"] if known else "gone")
        return states

    def lost_texts(self, client: httpx.Client) -> list[str]:
        """Return what the server does not have of what it acknowledged."""
        lost = []
        for name in self._names:
            if not (self.conversations[name] or self.documents[name]):
                continue
            transcript = client.get(f"/v1/memories/{name}/text").json()
            documents = [document["text"] for document in transcript["documents"]]
            lost += [text for text in self.documents[name] if text not in documents]
            messages = [message["content"] for message in transcript["messages"]]
            sent = [message["content"] for message in self.conversations[name]]
            if messages[: len(sent)] != sent:
                lost.append(f"{name}: the conversation differs")
        return lost


class MemoryWatch(threading.Thread):
    """A thread that samples the resident memory of a process and all its children, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._stopped = threading.Event()
        self.megabytes: list[int] = []

    def run(self) -> None:
        """Take a sample every two seconds."""
        while not self._stopped.wait(2):
            self.megabytes.append(self._resident_megabytes())

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()

    def _resident_megabytes(self) -> int:
        children: defaultdict[int, list[int]] = defaultdict(list)
        pages: dict[int, int] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                children[int(stat[1])].append(int(entry.name))
                pages[int(entry.name)] = int((entry / "statm").read_text().split()[1])
        unvisited, total = [self._pid], 0
        while unvisited:
            pid = unvisited.pop()
            total += pages.get(pid, 0)
            unvisited += children[pid]
        return round(total * PAGE_BYTES / 1e6)


@contextlib.contextmanager
def running_server(args: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """Yield the address and process id of a server; of one that runs already, no process id."""
    if args.url:
        yield args.url, None
        return
    with tempfile.TemporaryDirectory() as root:
        command = [
            str(Path(sys.executable).with_name("templora")), "serve", "--port", "0", "--root", root,
            *shlex.split(args.serve_args),
        ]  # fmt: skip
        process = subprocess.Popen(  # noqa: S603  # our own program
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        stderr = process.stderr
        assert stderr is not None  # noqa: S101  # it is a pipe
        try:
            lines = []
            for line in stderr:
                lines.append(line)
                if match := re.search(r"http://[\w.:]+\d", line):
                    break
            else:
                sys.exit("".join(lines))
            # a full pipe would stop the server
            threading.Thread(target=stderr.read, daemon=True).start()
            yield match[0], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the count, percentiles and maximum of latencies in seconds."""
    ordered = sorted(times)
    return {
        "count": len(ordered),
        **{
            f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 3)
            for p in (50, 95, 99)
        },
        "most": round(ordered[-1], 3),
    }


def main() -> None:
    """Run the load and print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
    with running_server(args) as (url, pid), httpx.Client(base_url=url, timeout=330) as reader:
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
        watch = MemoryWatch(pid) if pid else None
        if watch:
            watch.start()
        start_time = time.monotonic()
        threads = [
            threading.Thread(target=client.run, args=(start_time + args.seconds,))
            for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(REPORT_SECONDS)
                print(tally.line(time.monotonic() - start_time), file=sys.stderr, flush=True)
        seconds = time.monotonic() - start_time
        if watch:
            watch.stop()
        lost = [text for client in clients for text in client.lost_texts(reader)]
        absorbs = Counter(state for client in clients for state in client.job_states(reader))
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
