"""Defines `login`, `logout` and `whoami`: a person's token at a server, kept in the user's configuration folder."""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from launch_worker import terminal
from launch_worker.errors import InputError, LaunchError, LoginError
from launch_worker.saved_login import SavedLogin, forget_login, save_login, saved_login
from launch_worker.settings import Settings

if TYPE_CHECKING:
    from launch_worker.api.http_connection import HttpConnection

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


@click.command(epilog="Example: launch-worker login https://launch.example")
@click.argument("server", metavar="URL")
@click.option("--name", help="Your name there (default: as on this machine).")
@click.option("--token", "by_token", is_flag=True, help="Keep a token that you have: it is typed, or read from a pipe.")
@click.option("--expires", default="90d", show_default=True, metavar="DUR", help="How long the new token is valid.")
@_JSON
def login_command(server: str, name: str | None, by_token: bool, expires: str, as_json: bool) -> None:
    """Log in to a server by password, which makes a token, or by a token that you have.

    Without a password, make a token with a browser at URL/token, and paste it. The token is kept in
    ~/.config/launch-worker/login.json, for you alone. Commands use the server then, where nothing else says what to
    use.
    """
    url = _settings(server).api_url
    if is_readable_on_the_way(url):
        terminal.say(
            f"launch-worker: {url} is not encrypted: whoever is on the way can read your password and your token, and "
            "act as you; ask for an https:// address of it",
            err=True,
        )
    ways = {} if by_token else _connect(Settings(api_url=url)).ask("GET", "/login")
    if by_token or not ways["passwords"]:
        if sys.stdin.isatty():
            terminal.say(f"make a token with a browser at {url}/token, and paste it here", err=True)
        elif not by_token:
            raise InputError(
                f"{url} takes no passwords; make a token with a browser at {url}/token, and keep it with: "
                f"launch-worker login {url} --token"
            )
        token = _secret("token")
    else:
        if ways["provider"] and sys.stdin.isatty():
            terminal.say(f"without a password, make a token with a browser at {url}/token, and add --token", err=True)
        # In a terminal a person is asked; a program logs in by a token.
        who = name or (click.prompt("name", default=getpass.getuser(), err=True) if sys.stdin.isatty() else None)
        if who is None:
            raise InputError("say who you are, with --name, or keep a token with --token")
        token = _token_by_password(url, who, _secret("password"), expires=expires)
    account = _connect(replace(_settings(server), api_token=token)).ask("GET", "/whoami")
    try:
        path = save_login(os.environ, SavedLogin(url, token))
    except OSError as error:
        raise LaunchError(f"the login cannot be kept: {error.strerror or error}") from None
    if path is None:
        raise LaunchError("the login cannot be kept: you have no home folder; set HOME or XDG_CONFIG_HOME")
    if as_json:
        terminal.echo_json({"url": url, "kept_in": str(path), **account})
    else:
        terminal.say(f"you are {account['name']} at {url} ({account['role']}); the login is kept in {path}")


def is_readable_on_the_way(url: str) -> bool:
    """Whether others can read what is sent to a server: without TLS, and not within this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    return parts.scheme == "http" and not is_here


def _token_by_password(url: str, name: str, password: str, *, expires: str) -> str:
    """A new token of the person. The session in which it is made is ended."""
    server = _connect(Settings(api_url=url))
    with server.answer("POST", "/login", body=_body({"name": name, "password": password}), headers=_JSON_BODY) as said:
        said.read()
        cookie = (said.headers.get("Set-Cookie") or "").partition(";")[0]
    headers = {"Cookie": cookie}
    token = {"name": f"launch-worker on {socket.gethostname()}"[:100], "expires": expires}
    made = server.ask("POST", "/tokens", body=token, headers=headers)
    server.ask("POST", "/logout", headers=headers)
    text: str = made["token"]
    return text


_JSON_BODY = {"Content-Type": "application/json"}


def _body(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


def _secret(what: str) -> str:
    """A secret, typed without being shown, or the first line of a pipe; never an argument, which others see."""
    text = click.prompt(what, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not text:
        raise InputError(f"no {what} was given; type it, or write it to standard input")
    return str(text)


@click.command(epilog="Example: launch-worker logout")
@_JSON
def logout_command(as_json: bool) -> None:
    """Forget the kept login, and revoke its token at the server, where that answers."""
    login = saved_login(os.environ)
    problem = None if login is None else _revoke(login)
    is_there = forget_login(os.environ)
    if as_json:
        terminal.echo_json({"logged_out": is_there, "problem": problem})
        return
    terminal.say("the login is forgotten" if is_there else "there is no login to forget")
    if problem is not None:
        terminal.say(f"launch-worker: its token was not revoked and goes on until it expires: {problem}", err=True)


def _revoke(login: SavedLogin) -> str | None:
    """Revoke the token; why that was not possible, None where it was."""
    try:
        server = _connect(Settings(api_url=login.url, api_token=login.token))
        name = server.ask("GET", "/whoami")["token"]
        for token in server.ask("GET", "/tokens")["tokens"]:
            if token["name"] == name:
                server.ask("DELETE", f"/tokens/{token['id']}")
                return None
    except LoginError:
        # It is not valid any more.
        return None
    except LaunchError as error:
        return str(error)
    return None


@click.command(epilog="Example: launch-worker whoami --json")
@_JSON
@click.pass_obj
def whoami_command(url: str | None, as_json: bool) -> None:
    """Say who you are at the server that commands use, and what you may do there."""
    settings = _settings(url)
    account = _connect(settings).ask("GET", "/whoami")
    if as_json:
        terminal.echo_json({"url": settings.api_url, **account})
        return
    shown = {"name": account["name"], "server": settings.api_url, "role": account["role"]}
    shown |= {"groups": ", ".join(account["groups"]), "token": account["token"]}
    shown |= {f"role in {project}": role for project, role in account["projects"].items()}
    for label, value in shown.items():
        if value:
            terminal.say(f"{label:<10} {value}")


def _settings(url: str | None) -> Settings:
    """The settings for a server. Raises InputError where commands use Redis."""
    settings = Settings.of_client(url=url)
    if not settings.api_url:
        raise InputError("there is no login at Redis; give a server's URL, as https://launch.example")
    return settings


def _connect(settings: Settings) -> HttpConnection:
    from launch_worker.api.http_connection import HttpConnection

    return HttpConnection(settings.api_url, settings.api_token)
