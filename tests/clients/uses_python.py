"""
What a client developer writes with openapi-python-client, whose package ``people`` is generated beside this.
"""

import io
import os
import sys
from typing import TypeVar

from people import Client
from people.api.commits import index_commits, show_commit
from people.api.people import (
    attachments_people,
    create_people,
    delete_attachment_people,
    delete_people,
    get_attachment_people,
    get_people,
    history_people,
    import_people,
    list_people,
    patch_people,
    put_attachment_people,
    put_people,
)
from people.api.service import alive, ready
from people.api.sheets import index_sheets, show_sheet, transact
from people.models import (
    CommitMade,
    ImportPeopleFormat,
    ImportPeopleMode,
    ListPeopleCombined,
    Problem,
    ProblemCode,
    RecordPeoplePatch,
    RecordPeoplePatchOperation,
    RecordPeoplePatchOperationOp,
    RecordPeoplePatchOperationSheet,
    RecordPeopleRequest,
    RecordPeopleUpsertOperation,
    RecordPeopleUpsertOperationOp,
    RecordPeopleUpsertOperationSheet,
    Transaction,
)
from people.types import File

Answer = TypeVar("Answer")


def good(answer: Answer | Problem | None) -> Answer:
    assert answer is not None
    assert not isinstance(answer, Problem), answer
    return answer


client = Client(base_url=os.environ["FERRY_URL"], raise_on_unexpected_status=True)

created = good(create_people.sync(client=client, body=RecordPeopleRequest(slug="ada", name="Ada")))
assert created.record.name == "Ada"
assert isinstance(created.commit, CommitMade)

patched = good(patch_people.sync("ada", client=client, body=RecordPeoplePatch(joined_year=1991, email=None)))
assert patched.record.joined_year == 1991

replaced = good(
    put_people.sync(
        "ada", client=client, body=RecordPeopleRequest(slug="ada", name="Ada L.", joined_year=1991)
    )
)

read = good(get_people.sync("ada", client=client))
assert read.record.name == "Ada L."

listed = good(list_people.sync(client=client, joined_yeargte="1991", joined_yearlt="1992", slug="ada"))
assert [each.path for each in listed.records] == ["ada"]
assert listed.records[0].record.name == "Ada L."
either = ListPeopleCombined.from_dict({"or[0][name][contains]": "L.", "or[1][slug]": "nobody"})
joined = good(list_people.sync(client=client, combined=either, emailexists=False, joined_yearexists=True))
assert [each.path for each in joined.records] == ["ada"]
named = good(list_people.sync(client=client, q="ADA", path=["ada", "nobody"], prefer="count=exact"))
assert named.total == 1

stored = good(
    put_attachment_people.sync("ada", "a.bin", client=client, body=File(payload=io.BytesIO(b"hello")))
)
content = get_attachment_people.sync("ada", "a.bin", client=client)
assert isinstance(content, File)
assert content.payload.read() == b"hello"
attached = good(attachments_people.sync("ada", client=client))
assert [each.bytes_ for each in attached.attachments] == [5]
delete_attachment_people.sync("ada", "a.bin", client=client)

history = good(history_people.sync("ada", client=client))
assert len(history.history) == 3

transacted = good(
    transact.sync(
        client=client,
        body=Transaction(
            message="Two at once",
            operations=[
                RecordPeopleUpsertOperation(
                    op=RecordPeopleUpsertOperationOp.CREATE,
                    sheet=RecordPeopleUpsertOperationSheet.PEOPLE,
                    record=RecordPeopleRequest(slug="mary", name="Mary"),
                ),
                RecordPeoplePatchOperation(
                    op=RecordPeoplePatchOperationOp.PATCH,
                    sheet=RecordPeoplePatchOperationSheet.PEOPLE,
                    path="ada",
                    record=RecordPeoplePatch(joined_year=2026),
                ),
            ],
        ),
    )
)
assert [each.path for each in transacted.results] == ["mary", "ada"]

imported = good(
    import_people.sync(
        client=client,
        body=File(payload=io.BytesIO(b"slug,name\nmary,Mary S.\nedith,Edith\n")),
        format_=ImportPeopleFormat.CSV,
        mode=ImportPeopleMode.UPSERT,
    )
)
assert (imported.created, imported.updated) == (1, 1)

commits = good(index_commits.sync(client=client, limit=1))
commit = good(show_commit.sync(commits.commits[0].hash_, client=client))
assert "records.import" in commit.message

sheets = good(index_sheets.sync(client=client))
assert "people" in [each.name for each in sheets.sheets]
sheet = good(show_sheet.sync("people", client=client))
assert not isinstance(alive.sync(client=client), Problem)
assert not isinstance(ready.sync(client=client), Problem)

refused = get_people.sync("nobody", client=client)
assert isinstance(refused, Problem)
assert refused.code is ProblemCode.RECORD_NOT_FOUND

gone = good(delete_people.sync("ada", client=client))
sys.stdout.write("done\n")
