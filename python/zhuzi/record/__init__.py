"""What Zhuzi leaves on a disk: outputs that are whole or absent, and the records of what they were made from.

Nothing here needs torch. `output` writes, `place` refuses what must not be replaced, `marks` tells what Zhuzi
wrote, `provenance` is `zhuzi.json`; `disk`, `json_file` and `lock` are the parts they use.
"""
