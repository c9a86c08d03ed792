"""Long names, made to fit: the demangled names of kernels above all."""


def middle(text: str, width: int) -> str:
    """The text, with what is in its middle left out where it is longer than `width`."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 3
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def kernel(name: str, width: int) -> str:
    """A kernel's own name and its template arguments, without namespaces, return type and parameters."""
    own, angle, arguments = _without_parameters(name.removeprefix("void ")).partition("<")
    return middle(own.rpartition("::")[2] + angle + arguments, width)


def _without_parameters(name: str) -> str:
    """Without the list in parentheses at its end: it repeats the template arguments."""
    if not name.endswith(")"):
        return name
    depth = 0
    for i in range(len(name) - 1, 0, -1):
        depth += (name[i] == ")") - (name[i] == "(")
        if depth == 0:
            return name[:i]
    return name
