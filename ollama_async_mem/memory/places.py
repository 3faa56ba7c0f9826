"""Countries and continents by their English names: what is no other place than a town in it. Pure."""

from __future__ import annotations

from ollama_async_mem.memory.dates.words import listed
from ollama_async_mem.memory.wording import stem

__all__ = ["is_country"]

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


def is_country(names: frozenset[str]) -> bool:
    """Whether the stems of a name are those of a country or continent."""
    return bool(names) and names <= _COUNTRIES
