"""What is typed to change a link: `s1 s2 loss 1% delay 5 ms`, `s1>s2 rate 10 Mbit/s`, `s1 s2 down`. Pure."""

from __future__ import annotations

from pydantic import ValidationError

from unnoticed.errors import PlanError
from unnoticed.experiments.planning.fields import dimension_of
from unnoticed.experiments.planning.problems import sentence_of
from unnoticed.experiments.planning.settings import LinkOverride
from unnoticed.topology.direction import LinkChange

NAMES = {info.alias or name: name for name, info in LinkOverride.model_fields.items()}
USAGE = (
    f"usage: link NODE NODE up|down, or link NODE NODE {'|'.join(NAMES)} VALUE ...; NODE>NODE is one direction, "
    "which cannot be down alone"
)


def parse(line: str) -> tuple[str, LinkChange | None, bool | None]:
    """The link as a plan names it, and what it is to become: a change, or up (True) or down (False).

    Raises PlanError with the usage, or with a sentence for each value that cannot be.
    """
    words = line.split()
    if words and ">" in words[0]:
        link, rest = words[0], words[1:]
    else:
        link, rest = "-".join(words[:2]), words[2:]
    if "-" not in link and ">" not in link:
        raise PlanError(USAGE)
    if rest in (["up"], ["down"]):
        return link, None, rest == ["up"]
    values: dict[str, str] = {}
    key = ""
    for word in rest:
        if word in NAMES:
            if word in values:
                raise PlanError(f"link: {word} is there twice; give it one value.")
            key = word
            values[key] = ""
        elif key:
            values[key] = f"{values[key]} {word}".strip()
        else:
            raise PlanError(USAGE)
    if not values:
        raise PlanError(USAGE)
    try:
        return link, LinkChange(link=link, **LinkOverride.model_validate(values).model_dump()), None
    except ValidationError as error:
        raise PlanError(
            *(
                f"{detail['loc'][0]}: "
                + sentence_of(detail, known=NAMES, dimension=dimension_of(NAMES.get(str(detail["loc"][0]), "")))
                for detail in error.errors()
            )
        ) from error
