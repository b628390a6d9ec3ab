module github.com/culvert-mesh/culvert/test/kubernetes/spire/ejbca

go 1.27.0

toolchain go1.27.4
