# SPDX-License-Identifier: BSD-3-Clause
"""The command ``palm``.

Exit codes: 0 done, 1 a message or a server failed, 2 wrong usage or file, 3 no cluster, 124 timeout, 130 Ctrl-C. Where
something failed, the last line of standard error says what.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palm.errors import Cancelled, ConfigError, Disconnected, NotFound, PalmError, PayloadError, RemoteError, Timeout

if TYPE_CHECKING:
    from palm.client import Client

CLOSE_SECONDS = 0.2
_FILE = re.compile(r'^  File "(.+)", line \d', re.MULTILINE)  # in a traceback
_FRAME = re.compile(r'^(?=  File "(?:.+)", line \d)', re.MULTILINE)
_SEVERAL = re.compile(r"\s*(?:->|,|\s)\s*")  # what some write between steps
FAILED, USAGE, NO_CLUSTER, TIMEOUT, INTERRUPTED = 1, 2, 3, 124, 130
_CODES: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits
    (RemoteError, FAILED),
    (Timeout, TIMEOUT),
    (Cancelled, FAILED),
    (Disconnected, NO_CLUSTER),
    (ConfigError, USAGE),
    (NotFound, USAGE),
    (PayloadError, USAGE),
    (PalmError, FAILED),
    (NotImplementedError, USAGE),
    (OSError, USAGE),
    (ModuleNotFoundError, USAGE),
)
_cluster = click.option(
    "--cluster",
    metavar="NAME",
    envvar="PALM_CLUSTER",
    help="Which cluster; default: $PALM_CLUSTER, else the only one that runs here.",
)
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up after so long; exit code 124.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="palm", prog_name="palm")
def palm() -> None:
    """Clusters of high-performance micro-services that work on numpy arrays."""


@palm.command()
def demo() -> None:
    """Send photographs through three servers, and show what that cost."""
    from palm.cli_tables import demo_report
    from palm.demo import run

    demo_report(run())


@palm.command()
@click.argument("file", type=click.Path(path_type=Path), default="cluster.toml")
@click.option("-d", "detach", is_flag=True, help="Return when all servers are ready; they go on.")
@click.option("--ready-fd", type=int, default=-1, hidden=True)
@click.pass_context
def up(ctx: click.Context, file: Path, detach: bool, ready_fd: int) -> None:
    """Start the cluster that FILE describes (default: cluster.toml)."""
    from palm import cli_up

    ctx.exit(cli_up.up_detached(file) if detach else cli_up.up(file, ready_fd))


@palm.command()
@click.argument("address")
@click.argument("file", type=click.Path(path_type=Path), default="cluster.toml")
@click.pass_context
def join(ctx: click.Context, address: str, file: Path) -> None:
    """Make this host a part of the cluster at ADDRESS, tcp://host:port, with what FILE describes.

    A parallel server that runs already gets its number of workers more, here; others are started here if there is none
    of their name. The file may be the same on all hosts. Ends with the cluster, or by Ctrl-C.
    """
    from palm import cli_up

    ctx.exit(cli_up.join(address, file))


@palm.command()
@click.option("--allow", metavar="KEY", help="Let in whoever has this public key, too; in quotes with a comment.")
def keys(allow: str | None) -> None:
    """Show the public key of this user, which is made if there is none; it encrypts all that leaves the host.

    Hosts with the same directory of keys, as by one home, need no more. Who has another key is let in after
    `palm keys --allow KEY` on the hosts of the cluster, and needs the whole address: tcp://KEY@host:port.
    """
    from palm import keys as user_keys

    if user_keys.make():
        click.echo(f"made a key in {user_keys.directory()}", err=True)
    if allow is not None:
        done = user_keys.allow(allow)
        click.echo(f"{'let in' if done else 'let in already'}: who starts from now on takes notice", err=True)
    click.echo(user_keys.own().public.hex())


@palm.command()
@click.argument("file", type=click.Path(path_type=Path), default="cluster.toml")
@click.option("--schema", is_flag=True, help="Print the JSON schema of such files, for editors; no file is read.")
def check(file: Path, schema: bool) -> None:
    """Check FILE (default: cluster.toml), and import the modules of its classes; nothing is started."""
    if schema:
        import json

        from palm import settings

        return click.echo(json.dumps(settings.schema(), indent=2))
    from palm.config import Configuration

    configuration = Configuration.read(file)
    configuration.check()
    configuration.check_listen()
    doubts = configuration.doubts()
    for doubt in doubts:
        click.echo(f"palm: {doubt}", err=True)
    verdict = "it can be started" if doubts else "nothing is wrong"
    click.echo(f"{file}: {', '.join(configuration.servers) or 'no servers'}: {verdict}")


@palm.command()
@click.argument("cluster", required=False)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up waiting after so long; exit code 124.",
)
def down(cluster: str | None, timeout: float) -> None:
    """Stop a cluster in good order, and wait until it is gone.

    Without a name it is $PALM_CLUSTER, else your only one here, if `palm up` has begun that. One that a script has
    begun has to be named, and the process of that script ends with it.
    """
    from palm import cli_up

    click.echo(f"cluster {cli_up.down(cluster, timeout)} is down")


@palm.command()
@_cluster
@_timeout
@click.argument("server")
@click.argument("workers", type=click.IntRange(min=1), metavar="N")
def scale(cluster: str | None, timeout: float | None, server: str, workers: int) -> None:
    """Give a parallel server N workers: palm scale spectrum 8

    The cluster has to run under `palm up`. Workers that go do first what they have. Processes that serve by
    `palm.serve` are not counted: there are as many as are started.
    """
    from palm import control, places

    try:
        control.scale(places.find(cluster), server, workers, timeout)
    except ValueError as e:
        raise click.UsageError(str(e)) from None
    click.echo(f"{server} has {workers} worker{'s' * (workers > 1)}")


@palm.command()
@_cluster
@click.option("--json", "as_json", is_flag=True, help="Print what Client.status() returns, or what SERVER has told.")
@click.argument("server", default="")
def status(cluster: str | None, as_json: bool, server: str) -> None:
    """Show the servers of a cluster and their counters.

    Of SERVER: its functions, with signatures and docstrings, where it runs and with which versions.
    """
    with _client(cluster) as client:
        found = client._directory.describe(server) if server else client.status()
    if as_json:
        from palm.cli_files import to_json

        click.echo(to_json(found, indent=2))
    else:
        from palm.cli_tables import server_report, status_report

        server_report(found) if server else status_report(found)


@palm.command()
@_cluster
@click.option("-f", "follow", is_flag=True, help="Go on with what comes, until the cluster ends or Ctrl-C.")
@click.option("--job", default="", metavar="ID", help="Of one job alone; the begin of its id will do.")
@click.option(
    "--level", default="0", metavar="LEVEL", help="debug, info, warning, error, critical: this one and above."
)
@click.option(
    "-n",
    "last",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="The last N records; 0: all that there are.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, with all that is known of it.")
@click.argument("server", default="")
def logs(cluster: str | None, follow: bool, job: str, level: str, last: int, as_json: bool, server: str) -> None:
    """Show what servers log and print: palm logs -f denoise

    SERVER is a server, or one of its workers: denoise/0. What is printed counts as info, on standard error as warning.
    With --cluster NAME, also of one that has ended.
    """
    from palm import cli_logs
    from palm.log_record import Wanted, level_of

    try:
        wanted = Wanted(server, job, level_of(level))
    except ValueError as e:
        raise click.UsageError(str(e)) from None
    with cli_logs.opened(cluster, _client) as log:
        cli_logs.check(log, server)
        cli_logs.show(log, wanted, last, follow, as_json)


@palm.command()
@_cluster
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks, over which rates are taken.",
)
@click.option("-n", "--iterations", type=click.IntRange(min=1), metavar="N", help="End after so many intervals.")
@click.option("--sort", default="name", show_default=True, metavar="COLUMN", help="name, busy, calls, median, ...")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--json", "as_json", is_flag=True, help="Print an object each interval, one a line.")
def top(cluster: str | None, interval: float, iterations: int | None, sort: str, reverse: bool, as_json: bool) -> int:
    """Watch a cluster at work: rates, times of calls, what waits, memory, and which server limits.

    In a terminal it is live, and keys sort it: h shows which. In a pipe it prints a table each interval, as wide as the
    terminal or $COLUMNS (250: all of it), else 80. What is shown is read from the processes' pages: none is asked, or
    slowed down.
    """
    from palm import cli_top, top_view

    if sort not in top_view.NAMES:
        raise click.UsageError(f"--sort {sort!r}: there is no such column; there are {', '.join(top_view.NAMES)}")
    view = top_view.View(sort, reverse)
    with _client(cluster) as client:
        return cli_top.top(client, interval, iterations, view, as_json)


@palm.command()
@_cluster
@_timeout
@click.argument("step")
@click.argument("file", required=False)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the result: .npy an array, .npz a dict of arrays, .json anything.",
)
def call(cluster: str | None, timeout: float | None, step: str, file: str | None, output: Path | None) -> None:
    """Call a function: palm call spectrum.power:gain=2.0 image.npy

    FILE is .npy (an array), .npz (a dict of arrays), .json, or - for JSON on standard input; without, the message is
    empty. A JSON list is spread where the function has several parameters. The result is printed as JSON.
    """
    from palm import arena, cli_files

    if output is not None and output.suffix not in cli_files.SUFFIXES:
        raise click.UsageError(f"{output}: a file of values ends in {', '.join(cli_files.SUFFIXES)}")
    _check_parent("--output", output)
    wanted = _steps([step])[0]
    with arena():
        value = _value(file)
    with _client(cluster) as client:
        known = client._directory.servers_of([wanted])[wanted.server]["functions"][wanted.function]
        spread = isinstance(value, list) and known["parameters"] != 1
        result = client.call(wanted, *([] if file is None else value if spread else [value]), timeout=timeout)
        if output is None:
            click.echo(cli_files.to_json(result))
        elif output.suffix not in (".json", cli_files.suffix_of(result)):
            raise click.UsageError(
                f"the result is a {type(result).__name__}: write it to a file that ends in "
                f"{cli_files.suffix_of(result)} or .json, not {output.name}"
            )
        else:
            cli_files.save(output, result)


@palm.command()
@_cluster
@_timeout
@click.argument("steps", nargs=-1, required=True, metavar="STEP...")
@click.option("--input", "pattern", required=True, metavar="GLOB", help="In quotes: 'in/*.npy'; also .npz and .json.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="For each input NAME.*, NAME.npy, .npz or .json; NAME-0, NAME-1, ... where a function yields.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Leave out inputs that have an output; those that were fanned out, or gave nothing, are done again.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write where the time went to this HTML file: rates, queues, copies, and which step limits.",
)
@click.pass_context
def submit(
    ctx: click.Context,
    cluster: str | None,
    timeout: float | None,
    steps: tuple[str, ...],
    pattern: str,
    output: Path,
    resume: bool,
    report: Path | None,
) -> None:
    """Send files through a pipeline: palm submit denoise.median spectrum.power --input 'in/*.npy' --output out

    An input that fails is listed at the end, and does not stop the others; the exit code is then 1. Where inputs have
    outputs in DIR already, nothing is begun without --resume.
    """
    from palm import cli_files, cli_submit

    _check_parent("--report", report)
    try:
        submission = cli_submit.Submission(_steps(steps), cli_files.inputs_of(pattern), output)
        if not resume:
            submission.check_fresh()
    except ValueError as e:
        raise click.UsageError(str(e)) from None
    if resume and (done := submission.skip_done()):
        click.echo(f"{done} inputs are done already, {submission.total} are left", err=True)
    with _client(cluster) as client:
        ctx.exit(cli_submit.submit(submission, client, timeout, report))


@palm.command()
@_cluster
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="JOB.toml")
def explain(cluster: str | None, file: Path) -> None:
    """Show how the messages of a job would go, from process to process, and what is copied; nothing is run.

    JOB.toml has steps = ["denoise.median", "spectrum.power:gain=2.0"], and input = "in/*.npy" if you like, whose first
    file is then held against what the first step takes.
    """
    from palm import cli_explain

    cli_explain.JobFile.read(file)
    with _client(cluster) as client:
        cli_explain.run(file, client)


@palm.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pdb", is_flag=True, help="Run it in this process, and enter the debugger where it raises.")
@click.option("--show", is_flag=True, help="Only print what the capsule has: nothing of it is run or unpickled.")
@click.pass_context
def replay(ctx: click.Context, file: Path, pdb: bool, show: bool) -> None:
    """Run a message that failed once more: FILE is the capsule that RemoteError.capsule names.

    It runs without a cluster, with the setup, constants and random numbers it had, in a process of its own. That
    is code which the capsule names or contains: replay only capsules that you trust.
    """
    from palm import capsule, cli_replay

    try:
        found = capsule.read(file)
    except FileNotFoundError:
        raise click.UsageError(
            f"there is no file {file}; an error names its capsule, which is on the host of the server"
        ) from None
    except ValueError as e:
        raise click.UsageError(f"{file}: {e}") from None
    cli_replay.show(found)
    if not show:
        ctx.exit(cli_replay.run(file, found, pdb))


@palm.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check what this machine gives to PALM; exit code 1 if something fails."""
    from palm.cli_tables import doctor_report
    from palm.doctor import diagnose

    failed = doctor_report(diagnose())
    if failed:
        click.echo(f"palm: {len(failed)} checks failed: {', '.join(failed)}", err=True)
    ctx.exit(FAILED if failed else 0)


@palm.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bench(ctx: click.Context, args: tuple[str, ...]) -> None:
    """Measure it here, beside its peers."""
    import importlib

    ctx.exit(importlib.import_module("palm.bench").main(list(args)) or 0)


@contextlib.contextmanager
def _client(cluster: str | None) -> Iterator[Client]:
    """A client that is closed at once at the end, also by Ctrl-C: `with Client()` would wait for what is under way."""
    from palm.client import Client

    client = Client(cluster)
    try:
        yield client
    finally:
        client.close(CLOSE_SECONDS)


def _steps(texts: list[str] | tuple[str, ...]) -> list[Any]:
    from palm.cli_files import parse_step
    from palm.step import route_of

    for text in texts:
        several = _SEVERAL.split(text.partition(":")[0].strip())
        if len(several) > 1 and "/" not in text:
            raise click.UsageError(f"{text!r} is no step: steps are separated by spaces, as {' '.join(several)}")
    try:
        return list(route_of([parse_step(text) for text in texts]))
    except ValueError as e:
        raise click.UsageError(str(e)) from None


def _check_parent(option: str, file: Path | None) -> None:
    """Before anything is done that could not be written to it."""
    if file is not None and not (parent := file.absolute().parent).is_dir():
        raise click.UsageError(f"{option} {file}: there is no directory {parent}")


def _value(file: str | None) -> Any:
    import json

    from palm.cli_files import SUFFIXES, load

    if file is None:
        return None
    if file != "-" and Path(file).suffix not in SUFFIXES:
        raise click.UsageError(f"{file}: FILE ends in {', '.join(SUFFIXES)}, or is - for JSON on standard input")
    try:
        return json.load(sys.stdin) if file == "-" else load(file)
    except FileNotFoundError:
        raise click.UsageError(f"there is no file {file}, which would have the message") from None
    except ValueError as e:
        raise click.UsageError(f"{file}: {e}") from None


def run(args: list[str]) -> int:
    """The command with these arguments; returns the exit code. Errors that are no bug are told in words."""
    from palm.cli_submit import reason_of

    try:
        code = palm.main(args, prog_name="palm", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("palm: interrupted", err=True)
        return INTERRUPTED
    except Exception as e:
        code = next((c for t, c in _CODES if isinstance(e, t)), None)
        if code is None:
            raise
        details = _details(e)
        click.echo(f"{details.rstrip()}\n" * bool(details) + f"palm: {reason_of(e)}", err=True)
        return code
    return code or 0


def _details(error: Exception) -> str:
    """What is shown before the last line, which says it all where PALM has refused something."""
    if isinstance(error, RemoteError):
        refused = error.type == PayloadError.__name__ and all(map(_is_ours, _FILE.findall(error.traceback)))
        return "" if refused else error.traceback
    return _from_users_on(str(error)) if "\n" in str(error).strip() else ""


def _from_users_on(text: str) -> str:
    """A traceback, or a text with one, without PALM's own lines that have called the user's first."""
    head, *frames = _FRAME.split(text)
    while frames[1:] and "Traceback (" not in frames[0] and _is_ours(_FILE.findall(frames[0])[0]):
        del frames[0]
    return "".join([head, *frames])


def _is_ours(file: str) -> bool:
    """Of a name in a traceback, which may come from another host."""
    path, own = Path(file), Path(__file__).parent
    return path.parent.parts[-2:] == (own.name, "_core") or (
        path.parent.name == own.name and any(own.glob(f"{path.stem}.*"))
    )


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
