"""Options that many commands have, each declared once."""

import click

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
