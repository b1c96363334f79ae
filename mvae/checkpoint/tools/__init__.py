"""The tools that take a checkpoint and answer or write: verify, diff, salvage, export, the newest file of a folder.

Imports everything below; numpy only where numbers are compared. torch never comes in.
"""
