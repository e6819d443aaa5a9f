"""`python -m terminal pair|run|simulate|selftest|roll-key`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recognition.budget import PrivacyProfile
from recognition.detect import Detector
from recognition.fetch_models import ModelsUnavailableError
from terminal.camera import CameraError, FolderSource, open_source
from terminal.capture import CaptureStation
from terminal.client import ClientError, TerminalClient, pair, steady_chance
from terminal.door import HOLD_S, CommandDriver, ConsoleDriver, Door, DoorError, Driver, RelayDriver
from terminal.keypad import make_keypad, unseen
from terminal.liveness import POLICIES, make_liveness
from terminal.loop import TerminalLoop, describe_decision
from terminal.offline import Connection
from terminal.protocol import key_id_of, public_key_of
from terminal.screen import Screen, Show
from terminal.state import DEFAULT_PATH, StateError, TerminalState, load_state, save_state

USAGE_ERROR = 2
CLOCK_WARNING_S = 10


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Exit status: 0 done, 1 something must be put right (it says what), 2 wrong usage."""
    console = console or Console()
    options = _parser().parse_args(arguments)
    try:
        status: int = options.do(options, console)
        return status
    except (StateError, ClientError) as error:
        hint = f" ({error.hint})" if isinstance(error, ClientError) and error.hint else ""
        console.print(f"{error.message}{hint}", style="red", soft_wrap=True, markup=False)
    except (CameraError, DoorError, ModelsUnavailableError, ValueError) as error:
        console.print(str(error), style="red", soft_wrap=True, markup=False)
    except KeyboardInterrupt:
        console.print("Stopped. The door is locked.")
        return 0
    return 1


def _pair(options: argparse.Namespace, console: Console) -> int:
    path: Path = options.state
    if path.exists() and not options.again:
        console.print(f"{path} exists: this terminal is paired. Add --again to pair it anew.", style="yellow")
        return 1
    code = options.code or console.input("One-time code from the administrator: ").strip()
    state = pair(options.server, code, seed=os.urandom(32))
    save_state(path, state)
    console.print(f"Paired as [bold]{state.name}[/] ({state.role}), door: {state.door_name or 'none'}")
    console.print("This exchange was not signed by anybody. Compare with the server's page of this terminal:")
    console.print(f"  this terminal's key  {state.key_id}", highlight=False)
    for name, key in state.server_keys.items():
        console.print(f"  server key {name}  {key_id_of(key)}", highlight=False)
    if state.server_url.startswith("http://"):
        console.print("The server's address is http, not https: the comparison is all that protects you.")
    return 0


def _run(options: argparse.Namespace, console: Console) -> int:
    path: Path = options.state
    state = load_state(path)
    driver = _driver(options, console)
    door = Door(door_id=state.door_id, driver=driver, hold_s=options.hold)
    try:
        liveness = make_liveness(options.liveness)
        detector = Detector()
        with TerminalClient(state.server_url, state) as client:

            def keep(state: TerminalState) -> None:
                save_state(path, state)

            def make_station(profile_hash: str) -> CaptureStation:
                return CaptureStation(_profile(client, profile_hash, path), detector, liveness=liveness)

            screen = Screen(console)
            connection = Connection(chance=steady_chance)
            station = _until_answered(
                lambda: make_station(client.settle_key(keep).profile_hash), connection, screen
            )
            loop = TerminalLoop(
                client=client,
                station=station,
                door=door,
                screen=screen,
                connection=connection,
                steady=time.monotonic,
                keep_state=keep,
                make_station=make_station,
                keypad=make_keypad(options.keypad),
            )
            screen.show(Show.READY, f"{state.name} is ready.")
            with unseen():
                return _watch(options.source, loop, screen)
    finally:
        door.shut()


def _watch(address: str, loop: TerminalLoop, screen: Screen) -> int:
    """Feed the loop for ever from a camera, or once through a film or a folder."""
    camera = Connection(chance=steady_chance)
    while True:
        try:
            source = open_source(address)
            try:
                for frame in source:
                    camera.succeeded()
                    loop.step(frame)
                return 0
            finally:
                source.close()
        except CameraError as error:
            wait = camera.failed(time.monotonic())
            screen.show(Show.FAULT, f"{error}. Trying again.")
            time.sleep(wait)


def _until_answered(
    action: Callable[[], CaptureStation], connection: Connection, screen: Screen
) -> CaptureStation:
    """A terminal that starts before its server waits for it."""
    while True:
        try:
            station = action()
        except ClientError as error:
            if error.code != "unreachable":
                raise
            wait = connection.failed(time.monotonic())
            screen.show(Show.OFFLINE, "No connection: the door stays shut.")
            time.sleep(wait)
        else:
            connection.succeeded()
            return station


def _simulate(options: argparse.Namespace, console: Console) -> int:
    """Every picture of a folder is one attempt, through the same code as a door, over real HTTP; a card and its PIN
    without pictures are one, too."""
    state = load_state(options.state)
    if options.frames is None:
        return _simulate_card(options, state, console)
    source = FolderSource(options.frames)
    detector = Detector()
    with TerminalClient(state.server_url, state) as client:
        station = CaptureStation(_profile(client, state.profile_hash, options.state), detector)
        door = Door(door_id=state.door_id, driver=ConsoleDriver(Console(quiet=True)))
        granted = denied = unusable = 0
        for frame in source:
            started = time.monotonic()
            capture = station.capture(frame.pixels)
            if not capture.ok:
                unusable += 1
                console.print(
                    f"{frame.name:<16} not sent  {capture.quality.reason}: {capture.advice}", highlight=False
                )
                continue
            decision = client.attempt(capture)
            if decision.reason == "pin_required" and options.pin:
                decision = client.prove(attempt_id=decision.attempt_id, pin=options.pin)
            elif decision.reason == "card_required" and options.card:
                decision = client.prove(attempt_id=decision.attempt_id, card=options.card)
            opening = door.open(decision, now=client.now)
            granted += opening.opened
            denied += not opening.opened
            line = describe_decision(decision, at=datetime.now(UTC), took_s=time.monotonic() - started)
            console.print(f"{frame.name:<16} {line}", highlight=False, soft_wrap=True)
        door.shut()
    console.print(f"{granted} granted, {denied} denied, {unusable} not sent")
    return 0


def _simulate_card(options: argparse.Namespace, state: TerminalState, console: Console) -> int:
    if not (options.card and options.pin):
        raise ValueError("give --frames, or --card and --pin for a door that takes a card without a face")
    with TerminalClient(state.server_url, state) as client:
        door = Door(door_id=state.door_id, driver=ConsoleDriver(Console(quiet=True)))
        started = time.monotonic()
        decision = client.prove(card=options.card, pin=options.pin)
        opening = door.open(decision, now=client.now)
        line = describe_decision(decision, at=datetime.now(UTC), took_s=time.monotonic() - started)
        console.print(f"{'a card':<16} {line}", highlight=False, soft_wrap=True)
        door.shut()
    console.print(f"{int(opening.opened)} granted, {int(not opening.opened)} denied, 0 not sent")
    return 0


def _selftest(options: argparse.Namespace, console: Console) -> int:
    """Each part on its own, with what to do about the ones that fail."""
    table = Table("", "part", "finding", show_edge=False)
    failed = 0

    def check(part: str, test: Callable[[], str], advice: str) -> bool:
        nonlocal failed
        try:
            table.add_row("[green]ok[/]", part, test())
        except (StateError, ClientError, CameraError, ModelsUnavailableError, DoorError, ValueError) as error:
            failed += 1
            hint = f" ({error.hint})" if isinstance(error, ClientError) and error.hint else ""
            table.add_row("[red]no[/]", part, f"{error}{hint}\n[yellow]{advice}[/]")
            return False
        return True

    def key() -> str:
        state = load_state(options.state)
        if key_id_of(public_key_of(state.private_key)) != state.key_id:
            raise StateError("state_malformed", "the key and its id do not fit")
        return f"paired with {state.server_url} as {state.name}, key {state.key_id}, mode 0600"

    def detector() -> str:
        return f"{Detector().name}, digests verified"

    def camera() -> str:
        source = open_source(options.source)
        try:
            frame = next(iter(source))
            faces = Detector().find(frame.pixels)
            size = f"{frame.pixels.shape[1]}x{frame.pixels.shape[0]}"
            return f"{size}, {len(faces)} face(s) in view"
        finally:
            source.close()

    def lock() -> str:
        _driver(options, console).lock()
        return f"{options.driver}: locked"

    paired = check("key", key, "run `python -m terminal pair`")
    found = check("detector", detector, "run `python -m recognition.fetch_models`")
    if found:
        check("camera", camera, "check cable, address, password, and that nothing else uses the camera")
    check("lock", lock, "check wiring, command or relay address")
    if paired:
        state = load_state(options.state)
        with TerminalClient(state.server_url, state) as client:

            def server() -> str:
                description = client.describe()
                client.profile(str(description["profile_hash"]))
                ahead = (
                    client.now.timestamp() - datetime.fromisoformat(description["server_time"]).timestamp()
                )
                if abs(ahead) > CLOCK_WARNING_S:
                    raise ValueError(f"this clock is {ahead:+.0f} s from the server's")
                return (
                    f"reply signed by a pinned key, clocks agree within {abs(ahead):.1f} s, profile verified"
                )

            check(
                "server",
                server,
                "unreachable: check address and network; clock_skew: set the clock (NTP); key_unknown or"
                " terminal_revoked: pair again; unverified: something answers that is not your server",
            )
    console.print(table)
    console.print("All parts work." if not failed else f"{failed} part(s) to put right.")
    return 1 if failed else 0


def _roll_key(options: argparse.Namespace, console: Console) -> int:
    path: Path = options.state
    state = load_state(path)
    with TerminalClient(state.server_url, state) as client:
        client.settle_key(lambda kept: save_state(path, kept))
        rolled = client.roll_key(lambda kept: save_state(path, kept))
    if rolled.key_id == state.key_id:
        console.print("The server did not take the new key; the old one is still in use.", style="red")
        return 1
    console.print(f"New key {rolled.key_id}; the old one ends within minutes.", highlight=False)
    return 0


def _profile(client: TerminalClient, profile_hash: str, state_path: Path) -> PrivacyProfile:
    """From beside the state file when its hash fits, else from the server."""
    path = state_path.parent / "profiles" / f"{profile_hash}.json"
    if path.is_file():
        try:
            profile = PrivacyProfile.from_json(path.read_text(encoding="utf-8"))
            if profile.hash == profile_hash:
                return profile
        except ValueError:
            pass  # damaged on disk: fetch it again
    profile = client.profile(profile_hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(profile.to_json(), encoding="utf-8")
    partial.replace(path)
    return profile


def _driver(options: argparse.Namespace, console: Console) -> Driver:
    if options.driver == "console":
        return ConsoleDriver(console)
    if not options.unlock or not options.lock:
        raise ValueError(f"the driver {options.driver} needs --unlock and --lock")
    if options.driver == "command":
        return CommandDriver(shlex.split(options.unlock), shlex.split(options.lock))
    return RelayDriver(options.unlock, options.lock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m terminal", description="A door's or a desk's terminal.")
    parser.add_argument(
        "--state", type=Path, default=Path(os.environ.get("LINTEL_TERMINAL_STATE") or DEFAULT_PATH)
    )
    commands = parser.add_subparsers(required=True, metavar="pair|run|simulate|selftest|roll-key")

    pairing = commands.add_parser("pair", help="introduce this terminal to its server, once")
    pairing.add_argument("server", help="the server's address, for example https://lintel.example.org")
    pairing.add_argument("--code", help="the one-time code; asked for when left out")
    pairing.add_argument("--again", action="store_true", help="forget the present pairing")
    pairing.set_defaults(do=_pair)

    running = commands.add_parser("run", help="guard the door")
    running.add_argument(
        "--source", default="0", help="camera index, rtsp:// address, film or folder of pictures"
    )
    running.add_argument("--liveness", choices=POLICIES, default="none", help="see terminal/liveness.py")
    running.add_argument(
        "--keypad",
        choices=("auto", "console", "none"),
        default="auto",
        help="where PINs and cards are typed; auto: this console, if it is one",
    )
    running.add_argument("--hold", type=float, default=HOLD_S, help="seconds the door stays unlocked")
    _add_driver(running)
    running.set_defaults(do=_run)

    simulating = commands.add_parser("simulate", help="one attempt per picture of a folder")
    simulating.add_argument("--frames", type=Path, help="a folder of pictures")
    simulating.add_argument(
        "--pin", default="", help="for a door that asks for one; others on this machine can see it"
    )
    simulating.add_argument("--card", default="", help="likewise, a card's number")
    simulating.set_defaults(do=_simulate)

    testing = commands.add_parser("selftest", help="check camera, detector, lock, clock, key and server")
    testing.add_argument("--source", default="0")
    _add_driver(testing)
    testing.set_defaults(do=_selftest)

    rolling = commands.add_parser("roll-key", help="change this terminal's key")
    rolling.set_defaults(do=_roll_key)
    return parser


def _add_driver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--driver", choices=("console", "command", "relay"), default="console")
    parser.add_argument("--unlock", help="command: program and arguments; relay: address")
    parser.add_argument("--lock", help="likewise")


if __name__ == "__main__":
    sys.exit(main())
