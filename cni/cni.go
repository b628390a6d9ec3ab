// SPDX-License-Identifier: Apache-2.0

// Package cni is the chained CNI plugin that keeps a pod of the mesh from
// starting before it is enrolled. It configures nothing: it tells the node's
// ztunnel about the pod sandbox, waits for the answer, and passes on the result
// of the plugin before it. When ztunnel does not answer, decide.go does.
//
// It runs once per pod and verb on kubelet's critical path: no API server, no
// state of its own, and never more than enroll.Budget.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// codeNotEnrolled is our own; the CNI specification leaves us those from 100.
const codeNotEnrolled = 101

// versions starts where chaining does: before 0.3.0 there is no prevResult.
var versions = version.VersionsStartingFrom("0.3.0")

// Versions lists the versions of CNI that the plugin speaks.
func Versions() []string { return versions.SupportedVersions() }

// Main serves the verb that the environment and stdin ask for, as the CNI
// specification says, and returns the code to exit with.
func Main() int {
	about := "culvert-cni " + Version() + ": chained CNI plugin of the Culvert mesh"
	funcs := skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
	return exit(os.Getenv("CNI_COMMAND"), os.Stdout, os.Stderr, func() *types.Error {
		return skel.PluginMainFuncsWithError(funcs, versions, about)
	})
}

// exit turns an error, or a panic, into what the runtime reads on stdout. A DEL
// never fails, not even over a config that cannot be read: the runtime would
// keep the pod, and its successor's name, until somebody repaired the node.
func exit(command string, stdout, stderr io.Writer, run func() *types.Error) int {
	err := recovered(stderr, run)
	switch {
	case err == nil:
		return 0
	case command == "DEL":
		fmt.Fprintf(stderr, "culvert-cni: DEL: %v\n", err)
		return 0
	}
	if printErr := json.NewEncoder(stdout).Encode(err); printErr != nil {
		fmt.Fprintf(stderr, "culvert-cni: %v (printing it: %v)\n", err, printErr)
	}
	return 1
}

func recovered(stderr io.Writer, run func() *types.Error) (err *types.Error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(stderr, "culvert-cni: panic: %v\n%s", p, debug.Stack())
			err = types.NewError(types.ErrInternal, fmt.Sprintf("culvert-cni: panic: %v", p),
				"a bug: please report it with the plugin's stderr")
		}
	}()
	return run()
}

func add(args *skel.CmdArgs) error {
	conf, req, err := read("add", args)
	if err != nil {
		return err
	}
	log, done := conf.log("ADD", req)
	defer done()
	if conf.prevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig,
			"prevResult: missing: culvert-cni makes no interface, put it behind the plugin that does", "")
	}
	if req.PodName == "" {
		log.Info("not a Kubernetes pod: passed")
		return conf.pass(os.Stdout)
	}
	if err := conf.admit(req); err != nil {
		log.Error(err.Error())
		return err
	}
	log.Info("passed")
	return conf.pass(os.Stdout)
}

// admit returns nil if the pod may start.
func (c config) admit(req enroll.Request) error {
	reply, err := c.client().Add(context.Background(), req)
	switch {
	case errors.Is(err, enroll.ErrUnanswered):
		return c.decide(req, err)
	case err != nil:
		return refuse(req, fmt.Sprintf("ztunnel could not enroll it: %v", err), hintReason)
	case reply.Verdict == enroll.Block:
		return refuse(req, "ztunnel blocks it: "+reply.Reason, hintReason)
	}
	return nil
}

// del tells ztunnel. If that fails it is no loss: ztunnel sees the netns go,
// and a restarted one drops what it cannot find.
func del(args *skel.CmdArgs) error {
	conf, req, err := read("del", args)
	if err != nil {
		return err
	}
	log, done := conf.log("DEL", req)
	defer done()
	if err := conf.client().Del(context.Background(), req); err != nil {
		log.Warn(err.Error())
	}
	return nil
}

func check(args *skel.CmdArgs) error {
	conf, req, err := read("check", args)
	if err != nil {
		return err
	}
	log, done := conf.log("CHECK", req)
	defer done()
	if req.PodName == "" {
		return nil
	}
	err = conf.client().Check(context.Background(), req)
	if errors.Is(err, enroll.ErrUnanswered) {
		err = conf.decide(req, err)
	} else if err != nil {
		err = types.NewError(codeNotEnrolled,
			fmt.Sprintf("pod %s/%s is not enrolled as it should be: %v", req.PodNamespace, req.PodName, err), hintReason)
	}
	if err != nil {
		log.Error(err.Error())
	}
	return err
}

// gc refuses to work without a list: an absent one is not an empty one, and
// would unenroll every pod of the node.
func gc(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if conf.Valid == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "cni.dev/valid-attachments: missing", "")
	}
	valid := make([]enroll.Attachment, 0, len(*conf.Valid))
	for _, a := range *conf.Valid {
		valid = append(valid, enroll.Attachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	if err := conf.client().GC(context.Background(), conf.Name, valid); err != nil {
		return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("collect garbage: %v", err), "")
	}
	return nil
}

// status says that the plugin works even without its ztunnel: an error here
// makes the node NotReady, and Kubernetes then evicts every pod of it, mesh or
// not, and may keep ztunnel itself away. statusStrict asks for that.
func status(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if !conf.StatusStrict {
		return nil
	}
	conn, err := net.DialTimeout("unix", conf.Socket, enroll.Budget)
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("ztunnel does not answer: %v", err), hintZtunnel)
	}
	return conn.Close()
}

// Version names the build: the module's version, or the commit it was built of.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
