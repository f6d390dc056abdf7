"""Serving over HTTP, and the keys for it. Needs the extra ``serve``."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.text import Text

from templora_memory.cli._call import Call, command, write_json
from templora_memory.cli._commands import app
from templora_memory.errors import InvalidSetting

_EXTRA = frozenset({"fastapi", "starlette", "pydantic", "uvicorn"})
_RAY = frozenset({"ray", "mmh3"})
KeyFile = Annotated[
    Path | None,
    typer.Option(help="File of API keys; make them with `templora key`.", dir_okay=False),
]


def _server() -> ModuleType:
    try:
        from templora_memory import server  # an extra
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise InvalidSetting(
            f"Serving needs {error.name}: pip install 'templora-memory[serve]'."
        ) from error
    return server


def _distributed() -> ModuleType:
    try:
        from templora_memory.server.ray import local  # an extra
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA | _RAY:
            raise
        raise InvalidSetting(
            f"Serving with Ray needs {error.name}: pip install 'templora-memory[serve,ray]'."
        ) from error
    return local


@command(app)
def serve(
    call: Call,
    *,
    host: Annotated[
        str, typer.Option(help="Address to bind. Beyond this machine it needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    keys: KeyFile = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="TEMPLORA_API_KEY", help="One key, of the namespace default, without a file."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the base model. Default: its own name.")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page's origin that may call from a browser. May be repeated."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fields that would be ignored.")
    ] = False,
    running: Annotated[int, typer.Option(help="Replies computed at once.", min=1)] = 16,
    waiting: Annotated[int, typer.Option(help="Further ones that may wait.", min=0)] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole reply.")] = 300.0,
    grace: Annotated[
        float, typer.Option(help="Seconds that replies get when the server stops.", min=0)
    ] = 10.0,
    learning_share: Annotated[
        float,
        typer.Option(help="Share of the time for learning while replies wait, above 0, below 1."),
    ] = 0.5,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Prometheus metrics on this port of 127.0.0.1 (extra metrics)."),
    ] = None,
    traces: Annotated[
        bool, typer.Option("--traces", help="OpenTelemetry spans, as its environment says.")
    ] = False,
    objects: Annotated[
        str | None,
        typer.Option(help="s3://BUCKET/PREFIX to keep memories in (extra objects)."),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Several replicas on this machine, with Ray (extra ray).")
    ] = False,
    replicas: Annotated[
        int | None,
        typer.Option(help="With --ray: how many, each with the model. Default: 2.", min=1),
    ] = None,
    gpus: Annotated[
        float, typer.Option(help="With --ray: GPUs for each replica, also a part of one.", min=0)
    ] = 0.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every request; never its text or ids.")
    ] = False,
) -> None:
    """Serve memories over HTTP: OpenAI's chat interface, and the verbs of a memory.

    The model `BASE:ID` answers with the memory ID. Ctrl-C or SIGTERM stop it cleanly; absorbs that
    are interrupted go on at the next start.

    **Examples**

        templora serve
        templora serve --model Qwen/Qwen3-0.6B --port 9000
        templora key alice --keys keys.json
        templora serve --host 0.0.0.0 --keys keys.json
        templora serve --ray --replicas 2
        templora serve --objects s3://my-bucket/memories
    """
    server = _server()
    if not ray and (replicas is not None or gpus):
        raise InvalidSetting("--replicas and --gpus need --ray.")
    if ray and (metrics_port is not None or traces):
        raise InvalidSetting(
            "With --ray there is neither --metrics-port nor --traces: Ray has metrics of its own."
        )
    if keys is not None and api_key is not None:
        raise InvalidSetting("Give --keys or --api-key (TEMPLORA_API_KEY), not both.")
    known = None
    if keys is not None:
        known = server.ApiKeys.load(keys)
    elif api_key is not None:
        known = server.ApiKeys.of({api_key: "default"})
    settings = server.ServerSettings(
        name=name,
        max_running=running,
        max_waiting=waiting,
        reply_seconds=float(timeout),
        grace_seconds=float(grace),
        origins=tuple(origin or ()),
        strict=strict,
    )
    observer = server.make_observers(metrics_port=metrics_port, traces=traces)
    from templora_memory.backends.local import LocalBackend  # torch loads here

    common = call.common
    log = logging.getLogger("templora_memory")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)

    def started(url: str) -> None:
        if call.json:
            write_json({"url": f"{url}/v1"})
        else:
            call.warn(f"serving {common.model} at {url}/v1")

    backend = partial(
        LocalBackend,
        common.model,
        device=common.device,
        dtype=common.dtype,
        learning_share=learning_share,
    )
    root = common.root or Path.home() / ".templora"
    try:
        if ray:
            backend()  # loads nothing; a wrong setting is told here, not by replicas that fail
            distributed = _distributed()
            distributed.serve_with_ray(
                distributed.AppSpec(
                    backend=backend,
                    root=root.absolute(),
                    policy=common.policy(),
                    keys=known,
                    settings=settings,
                    objects=objects,
                    encryption=common.key,
                ),
                replicas=replicas or 2,
                host=host,
                port=port,
                gpus=gpus,
                on_started=started,
            )
            return
        server.serve(
            backend(),
            root,
            host=host,
            port=port,
            policy=common.policy(),
            keys=known,
            settings=settings,
            observer=observer,
            objects=objects,
            encryption=common.key,
            on_started=started,
        )
    finally:
        log.removeHandler(handler)


@command(app)
def key(
    call: Call,
    namespace: Annotated[
        str, typer.Argument(metavar="NAMESPACE", help="Whose key: a-z, 0-9, '-', '_'.")
    ],
    keys: Annotated[
        Path, typer.Option(help="File to add it to; made if it does not exist.", dir_okay=False)
    ] = Path("keys.json"),
) -> None:
    """Make an API key for a namespace. It is shown once; the file holds only its digest.

    Keys of one namespace share its memories and see no others. To take a key back, remove its
    digest from the file and start the server again.

    **Examples**

        templora key alice --keys keys.json
    """
    made = _server().add_key(keys, namespace)
    call.say({"namespace": namespace, "key": made, "file": str(keys)}, Text(made))
