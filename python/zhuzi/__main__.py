"""`python -m zhuzi`, which torchrun needs (`torchrun -m zhuzi pretrain ...`)."""

from zhuzi.cli import main

if __name__ == "__main__":
    main()
