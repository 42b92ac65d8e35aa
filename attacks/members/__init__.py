"""Membership inference: was this image among the training images of a client?"""
