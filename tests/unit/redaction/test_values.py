"""Values and look-alikes of each entity that needs no more than a line to tell."""

import pytest

from tests.unit.redaction.found import found

KEY = "a8Bc9dEf0GhIjKlMnOpQrStUv1WxYz2AbCd3EfGh4IjKl5Mn"
HEX = "0f3a9b7c1d2e8a6b5c4d3f2e1a0b9c8d"
B64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"

FOUND = {
    "IBAN_CODE": (
        *(
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "GB82-WEST-1234-5698-7654-32",
            "gb82west12345698765432",
        ),
        *("NO9386011117947", "MT84MALT011000012345MTLCAST001S", "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000"),
    ),
    "EMAIL_ADDRESS": (
        *(
            "bob@example.com",
            "o'neil@example.co.uk",
            "jörg.müller@straße.de",
            "bob%40example.com",
            "BOB@EXAMPLE.MUSEUM",
        ),
        *(
            "bob@例子.中国",
            "bob@xn--fsqu00a.xn--0zwm56d",
            "bob@exa\u200bmple.com",
            "bob＠example．com",
            "first+tag@a-b.io",
        ),
    ),
    "US_SSN": ("536-90-4399", "536 90 4399", "536.90.4399", "536–90–4399"),
    "IP_ADDRESS": ("8.8.8.8", "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8", "2A00:1450::8844", "８.８.８.８"),
    "CRYPTO": (
        *("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy"),
        *("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4"),
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        *("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"),
    ),
    "URL": ("https://example.com/a?b=c#d", "ftp://example.com/x", "www.example.org/a_(b)", "wss://example.com:8443/s"),
    "MAC_ADDRESS": ("00:1a:2b:3c:4d:5e", "00-1A-2B-3C-4D-5E", "001a.2b3c.4d5e"),
    "UUID": ("550e8400-e29b-41d4-a716-446655440000",),
    "DATE_TIME": (
        *("2024-05-06", "2024/5/6", "2024-05-06T12:00:01.123456+02:00", "2024-05-06 12:00:01,123", "20240506T120001Z"),
        *(
            "05/06/2024",
            "6.5.2024",
            "31/12/99",
            "06/May/2024:12:00:01 +0000",
            "6 May 2024",
            "May 6th, 2024",
            "July 9, 1987",
        ),
        *("6. März 2024", "6 de mayo de 2024", "17 déc. 2024", "Oct 12 08:11:02 2024", "27-MAY-99", "29.02.2024"),
    ),
    "ANTHROPIC_API_KEY": (f"sk-ant-api03-{KEY}-{KEY[:40]}AA",),
    "OPENAI_API_KEY": (f"sk-proj-{KEY}", f"sk-{KEY}", f"sk-svcacct-{KEY}"),
    "API_KEY": (
        *(f"sk-sluice-{KEY}Z", f"gsk_{KEY}"[:56], f"xai-{KEY}{KEY[:32]}", f"r8_{KEY[:37]}", f"dop_v1_{HEX}{HEX[::-1]}"),
        *(f"hvs.{KEY}", f"shpat_{HEX}", f"dckr_pat_{KEY[:27]}", f"7318264590:AA{KEY[:33]}"),
    ),
    "AWS_ACCESS_KEY": ("AKIA" + "Q3EGRIKXWM5ABCDE", "ASIA" + "Q3EGRIKXWM5ABCDE"),
    "GCP_KEY": ("AIza" + f"Sy{KEY[:33]}", f"GOCSPX-{KEY[:28]}", f"ya29.{KEY}"),
    "GITHUB_TOKEN": ("ghp_" + KEY[:36], f"github_pat_{KEY[:22]}_{KEY}{KEY[:11]}"),
    "GITLAB_TOKEN": ("glpat-" + KEY[:20],),
    "HUGGINGFACE_TOKEN": ("hf_" + KEY[:34],),
    "NPM_TOKEN": ("npm_" + KEY[:36],),
    "PYPI_TOKEN": (f"pypi-AgEIcHlwaS5vcmc{KEY}{KEY}",),
    "SENDGRID_KEY": (f"SG.{KEY[:22]}.{KEY[:43]}",),
    "SLACK_TOKEN": ("xoxb-" + f"123456789012-210987654321-{KEY[:24]}",),
    "STRIPE_KEY": ("sk_live_" + KEY[:24], "rk_test_" + KEY[:24], "whsec_" + KEY[:32]),
    "TWILIO_KEY": ("SK" + HEX,),
    "AZURE_KEY": (f"{KEY}AbCdJQQJ99{KEY[:26]}", "abc8Q~" + KEY[:34], f"{KEY}{KEY[:38]}=="),
    "JWT": (f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{KEY}", "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."),
    "PRIVATE_KEY": (
        f"-----BEGIN PRIVATE KEY-----\n{B64}\n-----END PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\\n{B64}\\n{B64}\\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n  b3BlbnNzaC1rZXktdjEAAAAA{B64}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{B64}\n-----END EC PRIVATE KEY-----",
    ),
    "CONNECTION_STRING": (
        *("postgres://bob:s3cr3t@db.example.com:5432/x?ssl=1", "mongodb+srv://u:p4ss@a.example.com,b.example.com/db"),
        *("redis://:s3cr3t@cache:6379/0", "amqps://u:p%40ss@mq/vhost", "https://user:p4ss@example.com/feed"),
        "Server=tcp:x.database.windows.net,1433;Initial Catalog=my db;User ID=bob;Password=Pa55w0rd!;Encrypt=True;",
        f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={KEY}==;EndpointSuffix=core.windows.net",
        f"Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey={KEY}=",
        *("host=localhost dbname=x user=bob password=s3cr3t", "jdbc:mysql://db:3306/x?user=bob&password=s3cr3t"),
        "cache.example.net:6380,password=s3cr3t=,ssl=True",
        *("postgres://app:Zk4passQ9t@db.internal/x", "postgres://app:Pa$$w0rd@db.internal/x"),
    ),
    "PASSWORD": (),
}

NOT_FOUND = {
    "IBAN_CODE": (
        "DE89370400440532013001",
        "XX89370400440532013000",
        "DE8937040044053201300",
        "ADE89370400440532013000",
    ),
    "EMAIL_ADDRESS": (
        *(
            "logo@2x.png",
            "git@github.com:org/repo.git",
            "pkg@1.2.3",
            "image@sha256:0f3a",
            "bob@host",
            "bob@corp.internal",
        ),
        *("foo.@example.com", "@example.com", "ssh://deploy@example.com/", "@app.route", "a@b@c"),
    ),
    "US_SSN": (
        *("000-12-3456", "666-12-3456", "900-12-3456", "536-00-4399", "536-90-0000", "078-05-1120", "536-90.4399"),
        *("1536-90-4399", "536-90-4399-1", "536904399", "555-55-5555"),
    ),
    "IP_ADDRESS": (
        *("192.168.1.1", "10.0.0.1", "127.0.0.1", "203.0.113.9", "169.254.1.1", "239.255.255.250", "fe80::1", "::1"),
        *(
            "2001:db8::1",
            "version 8.8.8.8",
            "==8.8.8.8",
            "8.8.8.8.8",
            "256.8.8.8",
            "Chrome/120.0.6099.109",
            "8.8.8.8-beta",
        ),
        *("§ 8.8.8.8", "upgraded from 8.8.8.8 to 8.8.4.4", '"version": "8.8.8.8"', "libfoo-8.8.8.8", "v8.8.8.8"),
        *("std::string", "dead::beef", "a::b1", "12:34:56", "1.3.6.1.4.1.311"),
    ),
    "CRYPTO": (
        *("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5"),
        *("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"),
        "bc1Qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
    ),
    "URL": ("main.py", "example.com", "os.path.join(a)", "https://", "node.js"),
    "MAC_ADDRESS": (
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "00:1a:2b:3c:4d:5e:6f",
        "00:1a-2b:3c:4d:5e",
        "0.001a.2b3c.4d5e",
    ),
    "UUID": ("550e8400-e29b-41d4-a716-44665544000", "550e8400e29b41d4a716446655440000"),
    "DATE_TIME": ("2024-13-06", "31.02.2024", "1.2.3", "12/34", "may 5 people", "10-20-30-40", "Smith 12, 2024"),
    "SECRET": (
        *(
            "AKIA" + "IOSFODNN7EXAMPLE",
            "sk-your-api-key-goes-here-please",
            "sk-" + "x" * 48,
            "ghp_" + "a" * 36,
            f"pk_live_{KEY[:24]}",
        ),
        *(
            f"risk-{KEY}",
            HEX,
            KEY[:40],
            "eyJhbGciOiJIUzI1NiJ9",
            "eyJzdWIiOiIxIn0x.eyJzdWIiOiIxIn0.abc",
            "SK" + "learn" * 7,
        ),
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        f"-----BEGIN PUBLIC KEY-----\n{B64}\n-----END PUBLIC KEY-----",
        f"-----BEGIN CERTIFICATE-----\n{B64}\n-----END CERTIFICATE-----",
        *("postgres://bob@db/x", "postgres://bob:${PW}@db/x", "postgres://u:<password>@db/x", "postgres://u:****@db/x"),
        *("Server=db;User Id=bob;Password=${PW};", "host=db user=bob", "Server=db;Database=x;Integrated Security=true"),
    ),
}


@pytest.mark.parametrize(("entity", "value"), [(entity, value) for entity in FOUND for value in FOUND[entity]])
@pytest.mark.parametrize("around", ["{}", "see {} there", '"{}"', "a,\t{}\n", "({})"])
def test_a_value_is_found_whole(entity: str, value: str, around: str) -> None:
    assert found(around.format(value), entity) == [value]


@pytest.mark.parametrize(("entity", "text"), [(entity, text) for entity in NOT_FOUND for text in NOT_FOUND[entity]])
@pytest.mark.parametrize("around", ["{}", "see {} there"])
def test_a_lookalike_is_not_found(entity: str, text: str, around: str) -> None:
    assert found(around.format(text), entity) == []


def test_what_touches_an_address_is_no_part_of_it() -> None:
    assert found("请bob@example.com。email=al@example.org,bob@example.com.", "EMAIL_ADDRESS") == [
        *("bob@example.com", "al@example.org", "bob@example.com")
    ]
    assert found("mail bob@example.com请 now", "EMAIL_ADDRESS") == ["bob@example.com"]


def test_of_a_mailbox_that_is_too_long_the_end_is_found() -> None:
    assert found("x" * 100 + "@example.com", "EMAIL_ADDRESS") == ["x" * 64 + "@example.com"]


def test_an_iban_ends_where_its_country_says() -> None:
    assert found("DE89 3704 0044 0532 0130 00 2 days", "IBAN_CODE") == ["DE89 3704 0044 0532 0130 00"]


def test_a_heading_is_no_address() -> None:
    assert found("intro\n3.2.1.4 Requirements\n", "IP_ADDRESS") == []
    assert found("3.2.1.4 answered", "IP_ADDRESS") == ["3.2.1.4"]


def test_keys_without_a_shape_need_a_word() -> None:
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzb5dEtghKE"
    assert found(f"AWS_SECRET_ACCESS_KEY={secret}", "SECRET") == [secret]
    assert found(f"commit {secret}", "SECRET") == []
    assert found(f"twilio auth token {HEX}", "TWILIO_KEY") == [HEX]
    assert found(f"azure openai key: {HEX}", "AZURE_KEY") == [HEX]


def test_a_private_key_without_its_end_is_as_secret() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{B64}\n{B64}"
    assert found(f"{key}\n\n(cut here)", "SECRET") == [key]


def test_an_ethereum_address_in_one_case_needs_a_word() -> None:
    address = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
    assert found(f"wallet {address}", "CRYPTO") == [address]


def test_ssn_without_separators_needs_a_word() -> None:
    assert found("SSN: 536904399", "US_SSN") == ["536904399"]
    assert found("socialSecurity=536904399", "US_SSN") == ["536904399"]


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ('password = "correct horse 1"', "correct horse 1"),
        ("DB_PASSWORD=hunter22", "hunter22"),
        ("api_key: 'a1b2c3d4'", "a1b2c3d4"),
        ('{"authToken" : "zz99zz99"}', "zz99zz99"),
    ],
)
def test_passwords_by_their_name(text: str, password: str) -> None:
    assert found(text, "PASSWORD") == [password]


@pytest.mark.parametrize(
    "text", ["password = ${PW}", "password: <secret>", "password=None", "passwords are bad", "token: string"]
)
def test_names_without_a_password(text: str) -> None:
    assert found(text, "PASSWORD") == []
