"""The pipeline file: what it may say, and reading it strictly.

Pure but for reading the one file that it is given. Must never look at the network, a journal or the environment.
"""
