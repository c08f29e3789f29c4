"""Describe all topics and payloads as AsyncAPI 3.0, for authors of other agents, workers or tools.

Run ``python -m schema.asyncapi > schema/asyncapi.yaml`` after a change of messages or channels.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import yaml

from schema import messages
from schema.asyncapi.channels import CHANNELS, PARAMETERS, VALUES, Channel
from schema.messages import Message, encode

_BINDING: Final = "0.2.0"
"""Version of the MQTT bindings: https://github.com/asyncapi/bindings/tree/master/mqtt"""

_NOTHING: Final = "Nothing"
"""Name of the message without a payload."""

_INTRODUCTION: Final = """\
Topics and payloads of the NTP Pool Monitor: MQTT 5, JSON.

Every topic belongs to one environment. User name and token identify a client, and the broker lets a monitor publish
below its own name only; so the name in a topic is the sender's identity, and payloads contain none. Ignore unknown
fields; wrong types are refused. Times are RFC 3339 UTC with microseconds; offset, rtt, root_delay and root_dispersion
are seconds, and a positive offset means that the server's clock is ahead.

An operation is named after the process that performs it; that process is also its tag.
"""


def document() -> dict[str, Any]:
    """Return the description."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "NTP Pool Monitor",
            "version": "1",
            "description": _INTRODUCTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": _server()},
        "channels": {channel.key: _channel(channel) for channel in CHANNELS},
        "operations": dict(operation for channel in CHANNELS for operation in _operations(channel)),
        "components": {
            "messages": _messages(),
            "parameters": {name: _parameter(name, text) for name, text in PARAMETERS.items()},
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {"type": "userPassword", "description": "User: the token's subject; password: the token."}
            },
        },
    }


def _server() -> dict[str, Any]:
    return {
        "host": "{host}:8883",
        "protocol": "secure-mqtt",
        "protocolVersion": "5",
        "variables": {"host": {"description": "Host name of the pool's broker."}},
        "security": [{"$ref": "#/components/securitySchemes/token"}],
    }


def _parameter(name: str, text: str) -> dict[str, Any]:
    return {"description": text, **({"enum": list(VALUES[name])} if name in VALUES else {})}


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": channel.address,
        "description": channel.description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(channel)},
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in re.findall(r"{(\w+)}", channel.address)
        },
    }


def _message_names(channel: Channel) -> list[str]:
    names = [type(example).__name__ for example in channel.examples]
    return [*names, _NOTHING] if channel.may_be_empty or not names else names


def _operations(channel: Channel) -> Iterable[tuple[str, dict[str, Any]]]:
    said = [("send", process) for process in channel.senders] + [("receive", process) for process in channel.receivers]
    for action, process in said:
        key = channel.key[0].upper() + channel.key[1:]
        operation: dict[str, Any] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel.key}"},
            "tags": [{"name": process}],
        }
        if action == "send":
            operation["bindings"] = {"mqtt": _operation_binding(channel)}
        if channel.answered_on is not None:
            operation["reply"] = {"channel": {"$ref": f"#/channels/{channel.answered_on}"}}
        yield f"{process}{'Sends' if action == 'send' else 'Receives'}{key}", operation


def _operation_binding(channel: Channel) -> dict[str, Any]:
    binding: dict[str, Any] = {"qos": channel.qos, "retain": channel.retained}
    if channel.expiry is not None:
        binding["messageExpiryInterval"] = int(channel.expiry.total_seconds())
    return binding | {"bindingVersion": _BINDING}


def _messages() -> dict[str, Any]:
    """Return all messages by name; one that is used in several channels has the examples of each."""
    found: dict[str, dict[str, Any]] = {}
    for channel in CHANNELS:
        for example in channel.examples:
            message = _message(example, channel)
            known = found.setdefault(message["name"], message)
            if known is not message:
                known["examples"] += message["examples"]
    return found | {_NOTHING: {"name": _NOTHING, "summary": "An empty payload.", "payload": {"const": ""}}}


def _message(example: Message, channel: Channel) -> dict[str, Any]:
    name = type(example).__name__
    found: dict[str, Any] = {
        "name": name,
        "summary": _plain(inspect.getdoc(type(example)) or name),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"payload": msgspec.json.decode(encode(example))}],
    }
    if channel.user_properties:
        properties = {
            key: {"type": "string", "description": text} for key, text in sorted(channel.user_properties.items())
        }
        found["headers"] = {"type": "object", "description": "MQTT 5 user properties.", "properties": properties}
    if binding := _message_binding(channel):
        found["bindings"] = {"mqtt": binding | {"bindingVersion": _BINDING}}
    return found


def _message_binding(channel: Channel) -> dict[str, Any]:
    binding: dict[str, Any] = {}
    if channel.correlation is not None:
        binding["correlationData"] = {"type": "string", "description": channel.correlation}
    if channel.answered_on is not None:
        binding["responseTopic"] = {
            "type": "string",
            "description": "Topic for the answer; without it there is no answer.",
        }
    return binding


def _schemas() -> dict[str, Any]:
    """Return the schemas of all payloads, with the description of each field from the code."""
    types = [value for value in vars(messages).values() if isinstance(value, type) and issubclass(value, Message)]
    used: Sequence[type] = [found for found in types if found is not Message]
    _, schemas = msgspec.json.schema_components(used, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        schema["description"] = _plain(schema["description"])
    on_the_wire = {
        kind.__name__: dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)) for kind in types
    }
    for name, fields in _field_descriptions().items():
        for field, text in fields.items():
            schemas[name]["properties"][on_the_wire[name][field]].setdefault("description", text)
    return dict(sorted(schemas.items()))


def _field_descriptions() -> Mapping[str, Mapping[str, str]]:
    """Return the docstring of each field, by class and field name, in one line."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(messages)).body:
        if isinstance(node, ast.ClassDef):
            for statement, following in zip(node.body, node.body[1:], strict=False):
                match statement, following:
                    case (
                        ast.AnnAssign(target=ast.Name(id=field)),
                        ast.Expr(value=ast.Constant(value=str() as text)),
                    ):
                        found.setdefault(node.name, {})[field] = _plain(text)
    return found


def _plain(text: str) -> str:
    """Remove the markup of docstrings."""
    return re.sub(r":\w+:`([^`]*)`", r"\1", " ".join(text.split())).replace("``", "")


def as_yaml(described: Mapping[str, Any]) -> str:
    """Return the description as YAML, as stored in the file."""
    text: str = yaml.dump(dict(described), sort_keys=False, allow_unicode=True, width=120, Dumper=_Dumper)
    return (
        "# Generated by 'python -m schema.asyncapi'; edit schema/asyncapi/channels.py or schema/messages.py.\n" + text
    )


class _Dumper(yaml.SafeDumper):
    """Write everything out: anchors save lines but are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)


if __name__ == "__main__":
    sys.stdout.write(as_yaml(document()))
