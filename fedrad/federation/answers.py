"""From a message to its answer, at any hospital: whatever goes wrong, only an error's code leaves.

The two ClientApps, a hospital's (``client``) and a simulation's (``simulated_client``), differ in what they do in
between, which they give as a function.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from flwr.app import Context, Message

from fedrad.config import Experiment
from fedrad.federation.hospital import experiment_of, failure_of
from fedrad.federation.messages import (
    Hello,
    Reply,
    Request,
    Stage,
    StageRequest,
    hello_content,
    read_request,
    read_stage,
    reply_content,
    stage_answer_content,
)
from fedrad.training.setup import pin_arithmetic


def answer_hello(message: Message, hello: Callable[[], Hello]) -> Message:
    """Who answers here."""
    try:
        content = hello_content(hello())
    except Exception as error:
        content = reply_content(failure_of(error, "", 0))
    return Message(content=content, reply_to=message)


def answer_training(message: Message, context: Context, train: Callable[[Experiment, Request], Reply]) -> Message:
    """The answer to one round."""
    site, number = "", 0
    try:
        request = read_request(message)
        site, number = request.site, request.round
        experiment = experiment_of(json.dumps(context.run_config))
        pin_arithmetic(experiment)
        content = reply_content(train(experiment, request))
    except Exception as error:
        content = reply_content(failure_of(error, site, number))
    return Message(content=content, reply_to=message)


def answer_secure(message: Message, context: Context, answer: Callable[[Experiment, StageRequest], Stage]) -> Message:
    """The answer to one of the stages of secure aggregation that lie around training."""
    site, number = "", 0
    try:
        request = read_stage(message)
        site, number = request.site, request.round
        content = stage_answer_content(answer(experiment_of(json.dumps(context.run_config)), request))
    except Exception as error:
        content = reply_content(failure_of(error, site, number))
    return Message(content=content, reply_to=message)
