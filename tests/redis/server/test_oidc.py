"""People come in by a real identity provider; what did not begin in their own browser, or was changed, does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from launch_worker.people.registry import Registry
from launch_worker.people.roles import Role
from tests.support.http_servers import TestServer, serving
from tests.support.identity_provider import IdentityProvider, identity_provider

PASSWORD = "a long password"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture
def variables(provider: IdentityProvider, request: pytest.FixtureRequest) -> dict[str, str]:
    return {
        "LAUNCH_OIDC_URL": provider.url,
        "LAUNCH_OIDC_CLIENT_ID": "launch",
        "LAUNCH_OIDC_CLIENT_SECRET": "hush hush",
        "LAUNCH_OIDC_ROLES": "admins=admin,staff=member",
    } | getattr(request, "param", {})


@pytest.fixture
def server(redis_url: str, tmp_path: Path, variables: dict[str, str]) -> Iterator[TestServer]:
    with serving(redis_url, tmp_path, variables=variables) as running:
        yield running


@pytest.fixture
def browser(server: TestServer) -> Iterator[httpx.Client]:
    with server.client("") as made:
        yield made


def leave(browser: httpx.Client, after: str = "/") -> str:
    """Begin a login; returns the address at the provider."""
    answer = browser.get("/login/oidc", params={"next": after})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def come_back(browser: httpx.Client, back: str) -> httpx.Response:
    """Open the address to which the provider sends the browser."""
    # As a browser says it where another site leads to this one.
    return browser.get(back, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})


def log_in(browser: httpx.Client, provider: IdentityProvider, subject: str, after: str = "/") -> httpx.Response:
    return come_back(browser, provider.log_in(leave(browser, after), subject))


def whoami(browser: httpx.Client) -> httpx.Response:
    return browser.get("/api/v1/whoami")


def test_a_person_comes_in_and_goes_to_the_page_that_was_asked_for(
    server: TestServer, browser: httpx.Client, provider: IdentityProvider
) -> None:
    provider.knows("s-1", preferred_username="Ada", name="Ada L.", groups=["staff", "/lab/ml"])
    page = browser.get("/login", params={"next": "/celery/tasks?a=b&c=d"})
    assert "Log in with 127.0.0.1" in page.text
    assert "/login/oidc?next=%2Fcelery%2Ftasks%3Fa%3Db%26c%3Dd" in page.text
    there = leave(browser, "/celery/tasks?a=b&c=d")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(there).query).items()}
    assert asked["redirect_uri"] == f"{server.url}/login/oidc/callback"
    assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
    cookie = next(iter(browser.cookies.jar))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.name.startswith("launch_worker_pending_")
    assert str(cookie.value).partition(".")[0] not in there
    answer = come_back(browser, provider.log_in(there, "s-1"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/celery/tasks?a=b&c=d")
    found = whoami(browser).json()
    assert (found["name"], found["display"], found["role"], found["how"]) == ("ada", "Ada L.", "member", "session")
    assert found["groups"] == ["lab.ml", "staff"]
    assert [cookie.name for cookie in browser.cookies.jar] == [f"launch_worker_{server.address.port}"]


def test_what_the_provider_says_of_groups_counts_at_each_login(
    browser: httpx.Client, provider: IdentityProvider
) -> None:
    for groups, role in ((["admins", "staff"], "admin"), (["strangers"], "none"), ([], "none"), (None, "none")):
        provider.knows("s-2", preferred_username="grace", **({} if groups is None else {"groups": groups}))
        assert log_in(browser, provider, "s-2").headers["location"] == "/"
        found = whoami(browser).json()
        assert (found["name"], found["role"], found["groups"]) == ("grace", role, sorted(groups or []))
    # Who has no role is logged in, and sees nothing.
    assert browser.get("/api/v1/queues").status_code == 403


def test_a_state_that_is_another_or_missing_is_refused_and_the_login_goes_on(
    browser: httpx.Client, provider: IdentityProvider
) -> None:
    provider.knows("s-3", preferred_username="eve")
    back = provider.log_in(leave(browser), "s-3")
    code = parse_qs(urlsplit(back).query)["code"][0]
    for state in ("", "x", "\N{BLACK STAR}", "0" * 64):
        answer = browser.get("/login/oidc/callback", params={"code": code, "state": state})
        assert answer.status_code == 401
        assert "this login was not begun here" in answer.text
    assert whoami(browser).status_code == 401
    assert come_back(browser, back).status_code == 303


def test_a_way_back_leads_in_nobody_elses_browser(
    server: TestServer, browser: httpx.Client, provider: IdentityProvider
) -> None:
    provider.knows("s-4", preferred_username="mallory")
    back = provider.log_in(leave(browser), "s-4")
    with server.client("") as victim:
        assert come_back(victim, back).status_code == 401
        leave(victim)
        assert come_back(victim, back).status_code == 401
        assert whoami(victim).status_code == 401


def test_a_way_back_leads_in_once(server: TestServer, browser: httpx.Client, provider: IdentityProvider) -> None:
    provider.knows("s-5", preferred_username="ivan")
    back = provider.log_in(leave(browser), "s-5")
    kept = dict(browser.cookies)
    assert come_back(browser, back).status_code == 303
    browser.cookies.clear()
    assert come_back(browser, back).status_code == 401
    # A copy of the cookie is of no use either: the provider gives nothing for a code that was used.
    with server.client("") as thief:
        thief.cookies.update(kept)
        answer = come_back(thief, back)
        assert answer.status_code == 401
        assert "the login was refused" in answer.text
        assert whoami(thief).status_code == 401


def test_a_token_for_another_login_is_refused(browser: httpx.Client, provider: IdentityProvider) -> None:
    provider.knows("s-6", preferred_username="oscar")
    there = leave(browser)
    nonce = parse_qs(urlsplit(there).query)["nonce"][0]
    answer = come_back(browser, provider.log_in(there.replace(nonce, "f" * 64), "s-6"))
    assert answer.status_code == 401
    assert "cannot be believed" in answer.text
    assert whoami(browser).status_code == 401


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"])
def test_a_login_leads_nowhere_else(browser: httpx.Client, provider: IdentityProvider, elsewhere: str) -> None:
    provider.knows("s-7", preferred_username="peggy")
    assert log_in(browser, provider, "s-7", elsewhere).headers["location"] == "/"


def test_a_path_that_was_changed_in_the_cookie_leads_nowhere_else(
    browser: httpx.Client, provider: IdentityProvider
) -> None:
    provider.knows("s-7", preferred_username="peggy")
    back = provider.log_in(leave(browser), "s-7")
    [cookie] = browser.cookies.jar
    assert cookie.value is not None
    cookie.value = f"{cookie.value.partition('.')[0]}.%2F%2Fevil.example"
    assert come_back(browser, back).headers["location"] == "/"


def test_the_name_of_somebody_with_a_password_is_not_taken_over(
    server: TestServer, browser: httpx.Client, provider: IdentityProvider
) -> None:
    registry = Registry(server.shared.database, actor="test")
    registry.add_user("bob", password=PASSWORD, given={"": Role.ADMIN})
    provider.knows("s-8", preferred_username="bob", groups=["admins"])
    answer = log_in(browser, provider, "s-8")
    assert answer.status_code == 401
    assert "users set bob --invite" in answer.text
    assert whoami(browser).status_code == 401
    # The form is there, to try another way.
    assert 'name="password"' in answer.text


def test_a_disabled_user_stays_out(server: TestServer, browser: httpx.Client, provider: IdentityProvider) -> None:
    provider.knows("s-9", preferred_username="trent", groups=["staff"])
    assert log_in(browser, provider, "s-9").status_code == 303
    Registry(server.shared.database, actor="test").set_user("trent", is_disabled=True)
    browser.cookies.clear()
    answer = log_in(browser, provider, "s-9")
    assert (answer.status_code, whoami(browser).status_code) == (401, 401)
    assert "disabled" in answer.text


def test_a_refusal_at_the_provider_is_said_in_its_words_as_text(browser: httpx.Client) -> None:
    state = parse_qs(urlsplit(leave(browser)).query)["state"][0]
    said = {"state": state, "error": "access_denied", "error_description": "<b>no"}
    answer = browser.get("/login/oidc/callback", params=said)
    assert answer.status_code == 401
    assert "access_denied: &lt;b&gt;no" in answer.text


def test_a_provider_that_is_away_is_a_sentence_and_holds_up_nothing(
    redis_url: str, tmp_path: Path, variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        identity_provider(tmp_path) as own,
        serving(redis_url, tmp_path, variables=variables | {"LAUNCH_OIDC_URL": own.url}) as server,
        server.client("") as browser,
    ):
        own.knows("s-1", preferred_username="ada")
        back = own.log_in(leave(browser), "s-1")
        own.stop()
        for answer in (come_back(browser, back), browser.get("/login/oidc")):
            assert answer.status_code == 503
            assert "does not answer as it should; try again later" in answer.text
        assert "oidc.unanswered provider=127.0.0.1" in caplog.text
        assert browser.get("/live").status_code == 200


@pytest.mark.parametrize("variables", [{"LAUNCH_PASSWORDS": "0"}], indirect=True)
def test_an_admin_may_turn_passwords_off(server: TestServer, browser: httpx.Client, provider: IdentityProvider) -> None:
    registry = Registry(server.shared.database, actor="test")
    registry.add_user("carol", password=PASSWORD, given={"": Role.MEMBER})
    page = browser.get("/login").text
    assert "Log in with" in page
    assert 'name="password"' not in page
    assert browser.get("/api/v1/login").json() == {"passwords": False, "provider": "127.0.0.1"}
    by_name = {"name": "carol", "password": PASSWORD}
    assert browser.post("/login", data=by_name).status_code == 403
    refused = browser.post("/api/v1/login", json=by_name)
    assert (refused.status_code, "make a token at /token" in refused.json()["detail"]) == (403, True)
    secret = server.shared.directory.first_secret()
    first = {"secret": secret, **by_name, "name": "dan"}
    assert browser.post("/api/v1/first-admin", json=first).status_code == 403
    assert browser.post("/first-admin", data=first | {"again": PASSWORD}).status_code == 403


def test_without_a_password_a_token_for_commands_is_made_at_a_page(
    server: TestServer, browser: httpx.Client, provider: IdentityProvider
) -> None:
    html = {"Accept": "text/html"}
    assert browser.get("/token", headers=html).headers["location"] == "/login?next=%2Ftoken"
    provider.knows("s-10", preferred_username="olivia", groups=["staff"])
    assert log_in(browser, provider, "s-10", "/token").headers["location"] == "/token"
    assert "olivia" in browser.get("/token").text
    wrong = browser.post("/token", data={"name": "laptop", "expires": "<soon>"})
    assert wrong.status_code == 422
    assert 'role="alert"' in wrong.text
    assert "<soon>" not in wrong.text
    made = browser.post("/token", data={"name": "laptop", "expires": "30d"})
    assert made.headers["cache-control"] == "no-store"
    assert f"launch-worker login {server.url} --token" in made.text
    token = made.text.partition("<code>lw_")[2].partition("</code>")[0]
    with server.client(f"lw_{token}") as program:
        found = whoami(program).json()
        assert (found["name"], found["role"], found["token"]) == ("olivia", "member", "laptop")
        # A stolen token would outlive its end by others.
        assert program.post("/token", data={"name": "other", "expires": "never"}).status_code == 403
    again = browser.post("/token", data={"name": "laptop", "expires": "30d"})
    assert (again.status_code, "has a token laptop already" in again.text) == (422, True)
    foreign = {"Origin": "https://evil.example"}
    assert browser.post("/token", data={"name": "x", "expires": "1d"}, headers=foreign).status_code == 403
