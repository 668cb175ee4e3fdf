"""Waits for publications about a run, a queue or a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors

#: Seconds for which the listener waits before it checks its connection.
_LISTEN_TURN_S = 30.0
#: Seconds after which a listener looks whether it is to stop.
_TURN_S = 0.2
#: Publication of a run that says no more than that its job has printed.
_OUTPUT = b"output"
#: Seconds to wait for the confirmation of a subscription.
_SUBSCRIBE_S = 2.0


class News(Client):
    """The part of `Store` that waits for news."""

    @contextmanager
    def watch(self, run_id: str) -> Iterator[Callable[[float], bool]]:
        """Yield a function that waits until the run makes a transition or prints; False after its timeout in seconds.

        No news after entering are missed: enter first, then read the run.
        """
        with self._watch(keys.news_channel(run_id)) as wait:
            yield wait

    @contextmanager
    def watch_sweeps(self) -> Iterator[Callable[[float], bool]]:
        """Yield a function that waits until something of any sweep is new; False after its timeout in seconds."""
        with self._watch(keys.SWEEP_NEWS) as wait:
            yield wait

    @contextmanager
    def _watch(self, channel: str) -> Iterator[Callable[[float], bool]]:
        with clear_errors(self.url), self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(channel)
            # A subscription holds once its confirmation was read.
            pubsub.get_message(timeout=_SUBSCRIBE_S)

            def wait(timeout_s: float) -> bool:
                with clear_errors(self.url):
                    is_news = pubsub.get_message(timeout=timeout_s) is not None
                    while pubsub.get_message(timeout=0) is not None:
                        pass
                return is_news

            yield wait

    def listen_to_all(self, *, on_news: Callable[[str], None], stopped: Callable[[], bool]) -> None:
        """Call `on_news` with the id of each run, group or sweep that has news, until `stopped`.

        Raises when Redis goes away.
        """
        pattern = keys.news_channel("*")
        with clear_errors(self.url), self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.psubscribe(pattern)
            pubsub.subscribe(keys.SWEEP_NEWS)
            while not stopped():
                message = pubsub.get_message(timeout=_TURN_S)
                if message is not None and message["type"] == "pmessage":
                    on_news(text(message["channel"]).removeprefix(pattern[:-1]))
                elif message is not None and message["type"] == "message":
                    on_news(text(message["data"]))

    def listen_to_states(self, *, on_news: Callable[[], None], stopped: Callable[[], bool]) -> None:
        """Call `on_news` when it listens, and after each change of a run, group or sweep, until `stopped`.

        Output of jobs is no news. Raises when Redis goes away.
        """
        with clear_errors(self.url), self._redis.pubsub() as pubsub:
            pubsub.psubscribe(keys.news_channel("*"))
            pubsub.subscribe(keys.SWEEP_NEWS)
            while not stopped():
                message = pubsub.get_message(timeout=_LISTEN_TURN_S)
                if message is None:
                    pubsub.ping()
                elif message["type"] != "pong" and message["data"] != _OUTPUT:
                    on_news()

    def listen(
        self, channels: Sequence[str], *, on_message: Callable[[str, str], None], stopped: Callable[[], bool]
    ) -> None:
        """Call `on_message(channel, message)` for each publication until `stopped`; raises when Redis goes away."""
        with clear_errors(self.url), self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(*channels)
            while not stopped():
                message = pubsub.get_message(timeout=_LISTEN_TURN_S)
                if message is not None and message["type"] == "message":
                    on_message(text(message["channel"]), text(message["data"]))
                elif message is None:
                    pubsub.ping()
