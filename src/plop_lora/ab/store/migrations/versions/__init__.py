"""The revisions. A revision that has been released is never edited; another one follows it."""
