"""All recognizers there are."""

from collections.abc import Sequence

from extproc.redaction.cards import CARDS
from extproc.redaction.connections import CONNECTIONS
from extproc.redaction.credentials import SECRETS
from extproc.redaction.crypto import WALLETS
from extproc.redaction.dates import DATES
from extproc.redaction.emails import EMAILS
from extproc.redaction.iban import IBANS
from extproc.redaction.ip import ADDRESSES
from extproc.redaction.national_ids import NATIONAL_IDS
from extproc.redaction.passwords import PASSWORDS
from extproc.redaction.patterns import Recognizer
from extproc.redaction.phones import phones
from extproc.redaction.ssn import SSNS
from extproc.redaction.urls import MACS, URLS, UUIDS


def library(regions: Sequence[str]) -> tuple[Recognizer, ...]:
    """Of telephone numbers without a country code, those of these regions. Raises ValueError for an unknown one."""
    return (
        *(CARDS, EMAILS, IBANS, PASSWORDS, phones(regions)),
        *(*ADDRESSES, *CONNECTIONS, *DATES, *MACS, *NATIONAL_IDS, *SECRETS, *SSNS, *URLS, *UUIDS, *WALLETS),
    )
