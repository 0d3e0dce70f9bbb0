"""The class of the tokenizer that most languages have."""


class Tokenizer:
    url_match: object = "quadratic"
