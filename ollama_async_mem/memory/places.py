"""Places by their English names: which two cannot lie in each other. Pure.

No gazetteer: countries, continents and cities that many live in. Of any other place it is not known what it lies in.
"""

from __future__ import annotations

from ollama_async_mem.memory.dates.words import listed
from ollama_async_mem.memory.wording import stem

__all__ = ["are_apart"]

_COUNTRIES = frozenset(
    stem(word)
    for word in listed(
        """afghanistan africa albania algeria america andorra angola antarctica arab arabia arabian argentina armenia
        asia australia austria azerbaijan bahamas bahrain bangladesh barbados belarus belgium belize benin bhutan
        bolivia bosnia botswana brazil britain brunei bulgaria burkina burundi cambodia cameroon canada chile china
        colombia congo costa rica croatia cuba cyprus czech czechia denmark ecuador egypt el salvador emirates england
        eritrea estonia eswatini ethiopia europe faso fiji finland france gabon gambia germany ghana great greece
        guinea guyana haiti herzegovina honduras hungary iceland india indonesia iran iraq ireland israel italy ivory
        coast jamaica japan kazakhstan kenya kingdom korea kosovo kuwait kyrgyzstan laos latvia lebanon lesotho liberia
        libya liechtenstein lithuania macedonia madagascar malawi malaysia maldives mali malta mauritania mauritius
        moldova mongolia montenegro morocco mozambique myanmar namibia nepal netherlands nicaragua niger nigeria north
        norway oman pakistan palestine papua new zealand panama paraguay peru philippines poland portugal qatar republic
        romania russia rwanda saudi scotland senegal serbia leone sierra slovakia slovenia somalia south spain sri lanka
        states sudan suriname sweden switzerland syria taiwan tajikistan tanzania thailand togo trinidad tobago tunisia
        turkey turkmenistan uae uganda uk ukraine united uruguay us usa uzbekistan venezuela vietnam wales yemen zambia
        zimbabwe"""
    )
)


_HOLDING = frozenset(map(stem, listed("africa america asia europe arabia britain kingdom uk korea emirates uae")))
"""What holds countries, or is as often a part of another as the whole."""
_CITIES = frozenset(
    stem(word)
    for word in listed(
        """amsterdam athens atlanta auckland baltimore bangalore bangkok barcelona basel beijing beirut belgrade berlin
        bogota bologna bordeaux boston bratislava brisbane bristol brussels bucharest budapest buenos aires
        cairo calgary cape town caracas chennai chicago cologne copenhagen dakar dallas denver detroit
        dresden dubai dublin dusseldorf edinburgh florence frankfurt gdansk geneva genoa ghent glasgow
        gothenburg hamburg hanoi hanover helsinki hong kong houston hyderabad istanbul jakarta jerusalem
        johannesburg karachi kiev kyiv kolkata krakow kyoto lagos lahore leeds leipzig lima lisbon liverpool
        ljubljana london los angeles lyon madrid malaga manchester manila marrakesh marseille melbourne
        miami milan minneapolis montreal moscow mumbai munich nairobi nantes naples new york orleans osaka
        oslo ottawa paris philadelphia phoenix porto portland prague reykjavik riga rome rotterdam san
        francisco diego jose antonio sao paulo seattle seoul seville shanghai sheffield shenzhen singapore
        sofia stockholm strasbourg stuttgart sydney taipei tallinn tehran tel aviv tokyo toronto toulouse
        turin utrecht valencia vancouver vienna vilnius warsaw wellington zagreb zurich"""
    )
)
_KINDS = (_CITIES, _COUNTRIES - _HOLDING)


def are_apart(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two places, by the stems of their names, are known to be two of a kind: two cities, or two countries."""
    return bool(one and other) and any(one <= kind and other <= kind for kind in _KINDS)
