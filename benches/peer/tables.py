"""Tables in Markdown."""


def row(cells):
    return "| " + " | ".join(cells) + " |"


def table(header, rows):
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(row(cells) for cells in [header, rule, *rows])
