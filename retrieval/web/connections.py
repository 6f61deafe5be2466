"""Connections of the server: how many there may be, and how long each may wait for its client.

uvicorn limits how long a connection may be idle after an answer, but not how long the next request
may take to come: clients that send nothing, or a byte now and then, would keep all file handles.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from utils.processes import raise_file_limit

HEAD_S = (
    10.0  # from a connection's beginning, or an answer, until the next request has a whole head
)
STALL_S = 120.0  # in which a client has to read what waits to be sent, some 64 KiB
MAX_HEAD = 1 << 16  # bytes; a path of 4,096 characters may take 48 KiB
MAX_CONNECTIONS, MAX_OF_CLIENT = 500, 250
# Files of a process that are no connections: of the index, of videos that are decoded.
_OTHER_FILES = 192
_MIN_CONNECTIONS = 16
QUIET_S = 60.0  # in which the same is logged once
_MAX_SAID = 100  # different messages in that time


def choose_max_connections() -> int:
    """Return how many connections the limit of open files allows; a file may be sent by each."""
    number = (raise_file_limit() - _OTHER_FILES) // 2
    return min(MAX_CONNECTIONS, max(_MIN_CONNECTIONS, number))


class Connection(H11Protocol):
    """A connection that is closed when its client lets it wait for too long.

    Where there are too many, of its client or in all, the one that has waited longest makes room
    for the new one: of all clients, it is one of the client that has most.
    """

    def __init__(self, *args: Any, max_connections: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_connections = max_connections
        self._timer: asyncio.TimerHandle | None = None
        self._limit_s: float | None = None  # of what is waited for; None: nothing is
        self.waits_since = float("inf")

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._look_what_is_waited_for()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._look_what_is_waited_for()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._look_what_is_waited_for()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._look_what_is_waited_for()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._look_what_is_waited_for()

    def _look_what_is_waited_for(self) -> None:
        """Begin to count the time of waiting for the client, or end it, where that has changed."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        limit_s = None if is_answering else HEAD_S
        if is_answering and self.flow.write_paused:
            limit_s = STALL_S
        if limit_s == self._limit_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._limit_s, self.waits_since, self._timer = limit_s, float("inf"), None
        if limit_s is not None:
            self.waits_since = time.monotonic()
            self._timer = self.loop.call_later(limit_s, self._end_waiting)

    def _end_waiting(self) -> None:
        left_s = self.waits_since + STALL_S - time.monotonic()
        if not self.transport.get_write_buffer_size():
            self.close(408, "the request did not come in time")
        elif left_s > 0:  # the end of the last answer is still on its way
            self._timer = self.loop.call_later(left_s, self._end_waiting)
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        """Close a connection that waits, or else this one, where there are too many."""
        of_client = Counter(_get_host(one) for one in self.connections)
        host = _get_host(self)
        if of_client[host] <= MAX_OF_CLIENT:
            if len(self.connections) <= self._max_connections:
                return
            host = of_client.most_common(1)[0][0]
        others = (one for one in self.connections if one is not self and _get_host(one) == host)
        longest = min(others, key=lambda one: one.waits_since, default=self)
        if longest.waits_since == float("inf"):
            self.close(503, "too many connections; try again")
        else:
            self.connections.discard(longest)  # it counts no more, although it ends later
            longest.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self.close(400, msg)

    def close(self, status: int, text: str) -> None:
        """End the connection; says why where the client has begun a request."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # nothing more is written by the application
            self.cycle.message_event.set()
        begun = status != 408 or self.conn.trailing_data[0]
        if begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"detail": text}).encode()
            headers = [("content-type", "application/json"), ("connection", "close")]
            headers.append(("content-length", str(len(body))))
            head = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            is_head = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD"
            self.transport.write(self.conn.send(head))
            if not is_head:
                self.transport.write(self.conn.send(h11.Data(data=body)))
        self.transport.close()


def _get_host(connection: Connection) -> str:
    return connection.client[0] if connection.client else ""


class QuietFilter(logging.Filter):
    """Lets each message through once a minute, so that nobody can fill the log from outside."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[Any, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "asyncio" and isinstance(error, OSError):
            # The system's word, such as that no file can be opened any more; not a fault in here.
            first = record.getMessage().partition("\n")[0]
            record.msg, record.args, record.exc_info = "%s (%s)", (first, error), None
        first = record.getMessage().partition("\n")[0]
        now, key = time.monotonic(), (record.name, first[:200], type(error))
        self._said = {one: at for one, at in self._said.items() if now - at < QUIET_S}
        if key in self._said or len(self._said) >= _MAX_SAID:
            return False
        self._said[key] = now
        return True
