// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

const defaultSocket = "/run/culvert/enroll.sock"

// runtimeKeys are written by the runtime or meant for it. Others that it writes
// begin with runtimePrefix.
var runtimeKeys = []string{"cniVersion", "name", "type", "prevResult", "runtimeConfig", "capabilities", "args"}

const runtimePrefix = "cni.dev/"

// ourKeys are those of config that an operator may set.
var ourKeys = []string{"socket", "snapshot", "ownPod", "logFile", "statusStrict"}

// Settings are the keys of the plugin's entry in a list of plugins that an
// operator may set.
type Settings struct {
	Socket       string `json:"socket,omitempty"`       // ztunnel's enroll socket; default /run/culvert/enroll.sock
	Snapshot     string `json:"snapshot,omitempty"`     // ztunnel's snapshot; default snapshot.json beside the socket
	OwnPod       string `json:"ownPod,omitempty"`       // ztunnel's pod, "namespace/name" or "namespace/prefix-"; default none
	LogFile      string `json:"logFile,omitempty"`      // JSON lines of what was decided; default none
	StatusStrict bool   `json:"statusStrict,omitempty"` // STATUS fails without ztunnel; default false
}

// Entry returns the plugin's entry in a list of plugins, or what the plugin would
// refuse in it.
func (s Settings) Entry() (json.RawMessage, error) {
	entry, err := json.Marshal(struct {
		Type string `json:"type"`
		Settings
	}{"culvert-cni", s})
	if err != nil {
		return nil, err
	}
	if _, err := parseConfig(entry); err != nil {
		return nil, err
	}
	return entry, nil
}

// config is the plugin's entry of the network's plugin list, as the runtime
// completes it. A key that is neither ours nor the runtime's is refused: it may
// be one of ours, misspelt.
type config struct {
	CNIVersion string `json:"cniVersion"` // the list's; default 0.1.0, by the specification
	Name       string `json:"name"`       // the network's; required

	Settings

	Raw   json.RawMessage       `json:"prevResult"`
	Valid *[]types.GCAttachment `json:"cni.dev/valid-attachments"` // of GC only

	prevResult types.Result
}

// parseConfig reads the config that the runtime wrote to stdin. Errors open
// with the field.
func parseConfig(stdin []byte) (config, error) {
	var c config
	if err := checkKeys(stdin); err != nil {
		return config{}, types.NewError(types.ErrInvalidNetworkConfig, strings.ReplaceAll(err.Error(), "\n", "; "), "")
	}
	if err := json.Unmarshal(stdin, &c); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) && wrongType.Field != "" {
			err = fmt.Errorf("%s: want %v, got %s", strings.TrimPrefix(wrongType.Field, "Settings."), wrongType.Type, wrongType.Value)
		}
		return config{}, types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	if c.Socket == "" {
		c.Socket = defaultSocket
	}
	if c.Snapshot == "" {
		c.Snapshot = filepath.Join(filepath.Dir(c.Socket), "snapshot.json")
	}
	if err := c.validate(); err != nil {
		return config{}, types.NewError(types.ErrInvalidNetworkConfig, strings.ReplaceAll(err.Error(), "\n", "; "), "")
	}
	if len(c.Raw) == 0 || bytes.Equal(c.Raw, []byte("null")) {
		return c, nil
	}
	result, err := create.Create(c.CNIVersion, c.versioned())
	if err != nil {
		return config{}, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("prevResult: %v", err), "")
	}
	c.prevResult = result
	return c, nil
}

// checkKeys names keys that nobody reads, and ours that are empty: an empty one
// would pass for its default. What is no object is left to whoever decodes it.
func checkKeys(stdin []byte) error {
	var all map[string]json.RawMessage
	if json.Unmarshal(stdin, &all) != nil {
		return nil
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(all)) {
		value := string(all[key])
		switch {
		case slices.Contains(ourKeys, key) && (value == `""` || value == "null"):
			errs = append(errs, fmt.Errorf("%s: empty: leave the key out for its default", key))
		case slices.Contains(ourKeys, key), slices.Contains(runtimeKeys, key), strings.HasPrefix(key, runtimePrefix):
		default:
			errs = append(errs, fmt.Errorf("%.80s: unknown key: culvert-cni has %s", key, strings.Join(ourKeys, ", ")))
		}
	}
	return errors.Join(errs...)
}

// maxSocketPath is what fits into sun_path with its NUL byte.
const maxSocketPath = 107

func (c config) validate() error {
	var errs []error
	if len(c.Socket) > maxSocketPath {
		errs = append(errs, fmt.Errorf("socket: %d bytes: the path of a socket has at most %d", len(c.Socket), maxSocketPath))
	}
	for _, f := range []struct{ field, path string }{
		{"socket", c.Socket}, {"snapshot", c.Snapshot}, {"logFile", c.LogFile},
	} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			errs = append(errs, fmt.Errorf("%s: want an absolute path, got %q", f.field, f.path))
		}
	}
	namespace, name, _ := strings.Cut(c.OwnPod, "/")
	if c.OwnPod != "" && !(enroll.Pod{Namespace: namespace, Name: strings.TrimSuffix(name, "-")}).IsNamed() {
		errs = append(errs, fmt.Errorf("ownPod: want namespace/name or namespace/prefix-, got %q", c.OwnPod))
	}
	return errors.Join(errs...)
}

// versioned is prevResult with the config's version if it names none, as
// results from before CNI 1.0 may.
func (c config) versioned() []byte {
	var result map[string]json.RawMessage
	if err := json.Unmarshal(c.Raw, &result); err != nil {
		return c.Raw
	}
	if _, ok := result["cniVersion"]; ok || result == nil {
		return c.Raw
	}
	result["cniVersion"], _ = json.Marshal(c.CNIVersion)
	whole, err := json.Marshal(result)
	if err != nil {
		return c.Raw
	}
	return whole
}

// pass prints prevResult byte for byte: a round trip through the types of this
// version of libcni would lose the fields it does not know.
func (c config) pass(stdout io.Writer) error {
	_, err := stdout.Write(append(c.versioned(), '\n'))
	return err
}

func (c config) client() enroll.Client { return enroll.Client{Socket: c.Socket} }

// read returns the config, and the sandbox as environment and config describe
// it. A sandbox of no Kubernetes pod has no PodName.
func read(verb string, args *skel.CmdArgs) (config, enroll.Request, error) {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return config{}, enroll.Request{}, err
	}
	pod, err := parseArgs(args.Args)
	if err != nil {
		return config{}, enroll.Request{}, err
	}
	boot, _ := enroll.BootID() // the request may be without
	req := enroll.Request{
		Network:       conf.Name,
		ContainerID:   args.ContainerID,
		IfName:        args.IfName,
		Netns:         args.Netns,
		PodNamespace:  pod.Namespace,
		PodName:       pod.Name,
		PodUID:        pod.UID,
		IPs:           conf.addrs(),
		BootID:        boot,
		PluginVersion: Version(),
	}
	if req.PodName == "" {
		return conf, req, nil
	}
	if err := req.Validate(verb); err != nil {
		return config{}, enroll.Request{}, types.NewError(types.ErrInvalidEnvironmentVariables,
			strings.ReplaceAll(err.Error(), "\n", "; "), "")
	}
	return conf, req, nil
}

// addrs are the sandbox's addresses that the plugins before us report.
func (c config) addrs() []netip.Addr {
	if c.prevResult == nil {
		return nil
	}
	result, err := current.NewResultFromResult(c.prevResult)
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, ip := range result.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// parseArgs reads CNI_ARGS, "K=V;K=V". Keys that are not ours belong to other
// plugins of the chain. A pod without a UID has no more to offer than its name:
// the plugin cannot ask the API server, and ztunnel looks the name up.
func parseArgs(args string) (enroll.Pod, error) {
	var pod enroll.Pod
	for pair := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = value
		case "K8S_POD_NAME":
			pod.Name = value
		case "K8S_POD_UID":
			pod.UID = value
		}
	}
	if pod != (enroll.Pod{}) && (pod.Namespace == "" || pod.Name == "") {
		return enroll.Pod{}, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_ARGS: want K8S_POD_NAMESPACE and K8S_POD_NAME or no K8S_POD_ at all, got %.200q", args), "")
	}
	return pod, nil
}
