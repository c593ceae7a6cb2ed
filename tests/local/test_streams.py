import asyncio

from local.streams import lines


async def test_a_line_of_any_length_comes_whole_or_in_pieces_and_none_is_lost() -> None:
    stream = asyncio.StreamReader(limit=8)
    stream.feed_data(b"short\n" + b"x" * 20 + b"\n\xff\nlast")
    stream.feed_eof()
    read = [line async for line in lines(stream)]
    assert read[0] == "short"
    assert "".join(read[1:-2]) == "x" * 20
    assert read[-2:] == ["\N{REPLACEMENT CHARACTER}", "last"]
