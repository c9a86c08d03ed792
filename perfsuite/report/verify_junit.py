"""What `perfsuite verify` found, as a JUnit file: a suite a folder, a case a log and one for the folder as a whole."""

import re
from typing import Any
from xml.etree import ElementTree

_NOT_XML = re.compile("[^\t\n -~\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(found: list[dict[str, Any]], official: bool) -> bytes:
    """The document. What a log must not hold in XML (control characters, half of a pair) is left out."""
    root = ElementTree.Element("testsuites", name="perfsuite verify")
    for one in found:
        suite = ElementTree.SubElement(root, "testsuite", name=_clean(one["label"]))
        _case(suite, one, "as a whole", _errors(one["findings"]) if not official else _official(one))
        for log in one["logs"]:
            errors = log["official_messages"] if official else _errors(log["findings"])
            crashed = [log["official_crashed"]] if official and log["official_crashed"] else []
            _case(suite, one, log["log"], [*errors, *crashed])
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(sum(len(case) > 0 for case in suite)))
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _case(suite: ElementTree.Element, one: dict[str, Any], name: str, errors: list[str]) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_clean(one["label"]), name=_clean(name))
    if errors:
        failure = ElementTree.SubElement(case, "failure", message=_clean(errors[0].split("\n")[0]))
        failure.text = _clean("\n".join(errors))


def _errors(findings: list[dict[str, Any]]) -> list[str]:
    return [f"line {f['line']}: {f['text']} [{f['source']}]" if f["line"] else f"{f['text']} [{f['source']}]"
            for f in findings if f["severity"] == "error"]  # fmt: skip


def _official(one: dict[str, Any]) -> list[str]:
    said = one["official"]
    if said is None or said["accepted"] or one["one_log"]:
        return []
    return said["why"]


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)
