"""The ClientApp of a hospital, real or simulated: what it is asked, and that of an error only its code leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrad.errors import FedradError, place_of
from fedrad.federation.messages import (
    Answer,
    Failure,
    Hello,
    Q,
    Reply,
    Request,
    Stage,
    StageRequest,
    content_of,
    read_question,
)


def client_app(
    hello: Callable[[Context], Hello],
    round: Callable[[Request, Context], Reply],
    stage: Callable[[StageRequest, Context], Stage],
) -> ClientApp:
    """A ClientApp that answers the three kinds of messages there are: who is there, a round, and one of the stages of
    secure aggregation that lie around training."""
    app = ClientApp()

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        return answered(message, lambda: hello(context))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return reply_to(message, Request, lambda request: round(request, context))

    @app.query("secure")
    def secure_stage(message: Message, context: Context) -> Message:
        return reply_to(message, StageRequest, lambda request: stage(request, context))

    return app


def reply_to(message: Message, kind: type[Q], answer: Callable[[Q], Answer]) -> Message:
    """The answer to a question of the server's; only an error's code leaves if it is none."""
    try:
        question = read_question(message, kind)
    except Exception as error:
        return Message(content=content_of(failure_of(error, "", 0)), reply_to=message)
    return answered(message, lambda: answer(question), question.site, question.round)


def answered(message: Message, answer: Callable[[], Answer], site: str = "", number: int = 0) -> Message:
    """What this makes, as the answer to a message: whatever goes wrong, only an error's code leaves."""
    try:
        content = content_of(answer())
    except Exception as error:
        content = content_of(failure_of(error, site, number))
    return Message(content=content, reply_to=message)


def failure_of(error: Exception, site: str, number: int) -> Failure:
    """The code that leaves, and what the hospital's own log says. fedrad's errors never carry report text; for any
    other error only the place is logged, since its message may quote a report."""
    if isinstance(error, FedradError):
        print(f"fedrad: {site} round {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Failure(site, number, error.code)
    print(f"fedrad: {site} round {number}: {type(error).__name__} at {place_of(error)}", file=sys.stderr, flush=True)
    return Failure(site, number, "internal")
