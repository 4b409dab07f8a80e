"""
What usage records tell, in columns that reports can ask; filled from the JSON, which stays.

Revision 0004, after 0003. What in the JSON is not what its name promises becomes null: the rules
are those of quota_engine/recorded.py, and a test compares both.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXTS = ("usage_type", "status", "quality", "provider", "model")
TOKENS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "reasoning_tokens", "images", "characters"),
)
COLUMNS = {
    **dict.fromkeys(TEXTS, "TEXT"),
    **dict.fromkeys(TOKENS, "BIGINT"),
    **dict.fromkeys(("audio_seconds", "video_seconds"), "NUMERIC"),
    "resolution": "TEXT",
    "requests": "BIGINT",
    "cost": "NUMERIC(48, 12)",
    "currency": "TEXT",
    "price_ids": "TEXT[]",
    **dict.fromkeys(("unbilled", "unpriced"), "TEXT"),
    "anomaly": "JSON",
    "error": "TEXT",
    **dict.fromkeys(("held", "latency_ms", "first_token_ms"), "BIGINT"),
    "request_id": "TEXT",
    "metadata": "JSON",
}

# SQL cannot read a JSON that holds an escaped NUL or half a character anywhere: these become
# U+FFFD. Escaped backslashes and whole pairs are set aside meanwhile, marked by control
# characters, which no JSON text holds.
FUNCTIONS = r"""
CREATE FUNCTION pg_temp.readable(told json) RETURNS json LANGUAGE sql AS $$
    SELECT CASE WHEN told::text !~ '\\u(0000|[dD][89a-fA-F])' THEN told ELSE
        replace(replace(
            regexp_replace(
                regexp_replace(
                    replace(told::text, '\\', E'\x01'),
                    '\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})',
                    E'\x02\\1\x02\\2', 'g'
                ),
                '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\ufffd', 'g'
            ),
            E'\x02', '\u'), E'\x01', '\\')::json
    END
$$;
CREATE FUNCTION pg_temp.told_text(told json, length_max int) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(told) = 'string'
            AND char_length(told #>> '{}') BETWEEN 1 AND length_max THEN
        told #>> '{}'
    END
$$;
CREATE FUNCTION pg_temp.told_count(told json) RETURNS bigint LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(told) = 'number' AND told #>> '{}' ~ '^[0-9]{1,16}$' THEN
        CASE WHEN (told #>> '{}')::bigint < 9007199254740992 THEN (told #>> '{}')::bigint END
    END
$$;
CREATE FUNCTION pg_temp.told_number(told text) RETURNS numeric LANGUAGE sql AS $$
    SELECT CASE WHEN told ~ '^-?[0-9]{1,60}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,2})?$' THEN
        told::numeric
    END
$$;
CREATE FUNCTION pg_temp.told_seconds(told json) RETURNS numeric LANGUAGE sql AS $$
    SELECT number FROM pg_temp.told_number(CASE json_typeof(told)
        WHEN 'number' THEN told #>> '{}' WHEN 'string' THEN pg_temp.told_text(told, 200)
    END) AS number
    WHERE number BETWEEN 0 AND 9007199254740991
$$;
CREATE FUNCTION pg_temp.told_cost(told json) RETURNS numeric LANGUAGE sql AS $$
    SELECT number FROM pg_temp.told_number(pg_temp.told_text(told, 200)) AS number
    WHERE abs(number) < 1e36 AND scale(trim_scale(number)) <= 12
$$;
CREATE FUNCTION pg_temp.told_texts(told json) RETURNS text[] LANGUAGE sql AS $$
    SELECT CASE WHEN count(*) BETWEEN 1 AND 100
            AND bool_and(pg_temp.told_text(item, 200) IS NOT NULL) THEN
        array_agg(pg_temp.told_text(item, 200) ORDER BY place)
    END
    FROM json_array_elements(CASE WHEN json_typeof(told) = 'array' THEN told END)
        WITH ORDINALITY AS items (item, place)
$$;
CREATE FUNCTION pg_temp.told_object(told json) RETURNS json LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(told) = 'object' THEN told END
$$;
"""
READ_BY = {
    "TEXT": "told_text(told->'{name}', 200)",
    "BIGINT": "told_count(told->'{name}')",
    "NUMERIC": "told_seconds(told->'{name}')",
    "NUMERIC(48, 12)": "told_cost(told->'{name}')",
    "TEXT[]": "told_texts(told->'{name}')",
    "JSON": "told_object(told->'{name}')",
}
INDEXES = {
    "usage_records_of_account": "(account, at_ms)",
    "usage_records_of_model": "(provider, model, at_ms) WHERE provider IS NOT NULL",
    "usage_records_operation": "(operation_id)",
}


def upgrade() -> None:
    """Add the columns, fill those of the rows that are there, and index them."""
    added = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in COLUMNS.items())
    op.execute(f"ALTER TABLE usage_records {added}")
    op.execute(FUNCTIONS)
    read = {name: READ_BY[kind].format(name=name) for name, kind in COLUMNS.items()}
    read["error"] = read["error"].replace("200", "2000")
    filled = ", ".join(f"{name} = pg_temp.{call}" for name, call in read.items())
    readable = "SELECT id AS row_id, pg_temp.readable(usage) AS told FROM usage_records"
    op.execute(
        f"UPDATE usage_records SET {filled} FROM ({readable} OFFSET 0) AS texts"
        " WHERE id = row_id AND json_typeof(told) = 'object'"
    )
    for name, place in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON usage_records {place}")


def downgrade() -> None:
    """Drop the columns and their indexes; the JSON has what they told."""
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    dropped = ", ".join(f"DROP COLUMN {name}" for name in COLUMNS)
    op.execute(f"ALTER TABLE usage_records {dropped}")
