#!/bin/sh
# A program that is started by `process_test.rs`.
cat <&3 >&4
exit 5
