"""Ask a tuned model one question from Python: python chat_in_a_script.py MODEL_DIR QUESTION."""

import sys

import zhuzi


def main() -> None:
    model, question = sys.argv[1:]
    for piece in zhuzi.Chat.from_dir(model).reply(question, temperature=0.0, max_new_tokens=64):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
