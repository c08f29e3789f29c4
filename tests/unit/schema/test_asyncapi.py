"""Test that the description of topics and payloads agrees with the code and is consistent."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from schema import messages
from schema.asyncapi.channels import CHANNELS, PARAMETERS, Channel
from schema.asyncapi.document import as_yaml, document
from schema.messages import Message, decode, encode
from schema.topics import Topics
from testbed.paths import CHECKOUT

FILE = CHECKOUT / "schema" / "asyncapi.yaml"
DOCUMENT = document()
TYPES = {
    name: value
    for name, value in vars(messages).items()
    if isinstance(value, type) and issubclass(value, Message) and value is not Message
}
_TOPIC_METHODS = [
    name for name, value in vars(Topics).items() if not name.startswith("_") and name not in ("env", "parse")
]
FILTERS = {"everything", "assignments"}


def test_file_is_up_to_date_with_the_code() -> None:
    assert FILE.read_text(encoding="utf-8") == as_yaml(document()), (
        "run: python -m schema.asyncapi.document > schema/asyncapi.yaml"
    )
    assert yaml.safe_load(FILE.read_text(encoding="utf-8")) == DOCUMENT


def references(part: Any) -> Iterator[str]:
    match part:
        case {"$ref": str(target), **rest}:
            assert rest == {} or "description" in rest or "default" in rest
            yield target
        case dict():
            for inner in part.values():
                yield from references(inner)
        case list():
            for inner in part:
                yield from references(inner)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_every_reference_resolves_and_every_component_is_used() -> None:
    targets = set(references(DOCUMENT))
    for target in targets:
        resolve(target)
    used = {tuple(target.removeprefix("#/components/").split("/")) for target in targets}
    for kind in ("messages", "parameters", "schemas"):
        unused = {name for name in DOCUMENT["components"][kind] if (kind, name) not in used}
        assert unused == set()


def test_every_message_of_the_code_is_described() -> None:
    assert DOCUMENT["components"]["schemas"].keys() == TYPES.keys()
    for name, message_type in TYPES.items():
        described = DOCUMENT["components"]["schemas"][name]
        fields = set(described["properties"]) - {"outcome"}  # the tag that distinguishes acks
        assert fields == set(message_type.__struct_encode_fields__)


def test_every_topic_of_the_code_is_described() -> None:
    arguments = {"name": "{name}", "ipv": "{ipv}", "server_id": "{server_id}", "check": "{check}", "answer_id": "{id}"}
    arguments |= {"service": "{service}", "operator": "{operator}", "order": "{order}", "client_id": "{client_id}"}
    topics = Topics("{env}")  # type: ignore[arg-type]
    built = set()
    for method in set(_TOPIC_METHODS) - FILTERS:
        found = getattr(topics, method)
        if callable(found):
            parts = found.__code__.co_varnames[1 : found.__code__.co_argcount]
            found = found(*(arguments[part] for part in parts))
        built.add(found)
    assert built == {channel.address for channel in CHANNELS}


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.key)
def test_every_parameter_of_an_address_is_described(channel: Channel) -> None:
    parts = re.findall(r"{(\w+)}", channel.address)
    assert set(parts) <= PARAMETERS.keys()
    assert list(DOCUMENT["channels"][channel.key]["parameters"]) == parts
    assert channel.answered_on in (None, *DOCUMENT["channels"])
    assert channel.retained or not channel.may_be_empty


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.key)
def test_examples_are_valid_messages(channel: Channel) -> None:
    for example in channel.examples:
        assert decode(encode(example), type(example)) == example
        described = DOCUMENT["components"]["messages"][type(example).__name__]["examples"]
        assert {"payload": msgspec.json.decode(encode(example))} in described


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.key)
def test_channel_is_sent_and_received_and_senders_have_its_bindings(channel: Channel) -> None:
    operations = [o for o in DOCUMENT["operations"].values() if o["channel"]["$ref"] == f"#/channels/{channel.key}"]
    assert {o["action"] for o in operations} == {"send", "receive"}
    sent = [o for o in operations if o["action"] == "send"]
    assert all(o["bindings"]["mqtt"]["qos"] == channel.qos for o in sent)
    assert all(o["bindings"]["mqtt"]["retain"] == channel.retained for o in sent)
    assert {o["tags"][0]["name"] for o in sent} == set(channel.senders)


def test_descriptions_of_fields_come_from_the_code() -> None:
    result = DOCUMENT["components"]["schemas"]["Result"]["properties"]
    assert result["offset"]["description"].startswith("Seconds; positive if the server is ahead.")
    assert result["ts"]["format"] == "date-time"
    descriptions = re.findall(r"description: .*", FILE.read_text(encoding="utf-8"))
    assert not [text for text in descriptions if "``" in text or ":func:" in text or ":class:" in text]


def test_document_has_version_title_and_valid_keys() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"]
    for key in (*DOCUMENT["channels"], *DOCUMENT["operations"], *DOCUMENT["components"]["schemas"]):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", key)


# ---- the operators' documentation ----------------------------------------------------------------------------------

TEXT = (CHECKOUT / "docs" / "topics.md").read_text(encoding="utf-8")
SECTIONS = {
    match["address"]: match["text"]
    for match in re.finditer(r"^### `(?P<address>[^`]+)`\n(?P<text>.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
}


def test_docs_list_every_topic_and_no_other() -> None:
    assert list(SECTIONS) == [channel.address for channel in CHANNELS]


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.key)
def test_docs_agree_with_the_code_about_each_topic(channel: Channel) -> None:
    text = SECTIONS[channel.address]
    retained = "retained" if channel.retained else "not retained"
    assert f"| {', '.join(channel.senders)} → {', '.join(channel.receivers)} | {retained} | {channel.qos} |" in text
    shown = [msgspec.json.decode(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert shown == [msgspec.json.decode(encode(example)) for example in channel.examples]
