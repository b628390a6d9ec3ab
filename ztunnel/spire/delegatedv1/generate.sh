#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Regenerates the Go of the proto with Debian's protoc, the protoc-gen-go
# that belongs to go.mod's protobuf, and the protoc-gen-go-grpc of tools/go.mod.
set -eu
cd "$(dirname "$0")/../../.." # the path in the registry of descriptors must be ours alone
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go
go -C tools build -o "$bin/" google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH="$bin:$PATH" protoc --go_out=paths=source_relative:. --go-grpc_out=paths=source_relative:. \
	ztunnel/spire/delegatedv1/delegated.proto
