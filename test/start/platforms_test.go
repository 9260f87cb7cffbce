package start_test

import (
	"encoding/binary"
	"math"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

const fsGroup = 54400

// platform is how a platform gives the service a folder or a file. The script runs as
// root in a folder that has etc, with the files of trustedTree, and no data. It makes
// data, or a volume of secrets in etc/secret, as secretVolume begins it.
type platform struct {
	script   string
	args     string
	acl      bool     // an access list lets the service read what is in etc/secret
	groups   []uint32 // beside the service's own
	refusal  string   // "": it starts
	settings string   // "": made
}

const secretVolume = "mkdir -p etc/secret/..2026; cp etc/tls.crt etc/tls.key etc/secret/..2026; cd etc/secret; ln -s ..2026 ..data; " +
	"ln -s ..data/tls.crt; ln -s ..data/tls.key; chown -Rh 0:0 .; chmod 1777 .; chmod 755 ..2026; chmod 644 ..2026/tls.crt; "

const secretArgs = "--tls-cert-file etc/secret/tls.crt --tls-key-file etc/secret/tls.key"

// platforms has what is to happen by the first column of the table in
// docs/operations.md.
func platforms() map[string]platform {
	group := []uint32{fsGroup}
	return map[string]platform{
		"volume of the image":                         {script: "mkdir -m 700 data; chown 54321:54321 data"},
		"persistent volume with `fsGroup`":            {script: "mkdir data; chown 0:54400 data; chmod 2775 data", groups: group},
		"the same on OpenShift (any user, group 0)":   {script: "mkdir data; chown 0:54400 data; chmod 2775 data", groups: []uint32{0, fsGroup}},
		"persistent volume without `fsGroup`":         {script: "mkdir -m 755 data; chown 0:0 data", refusal: "cannot make files in"},
		"`emptyDir`, `local-path`":                    {script: "mkdir data; chown 0:0 data; chmod 777 data", refusal: "use a persistent volume and set fsGroup for the pod, or mount with subPath"},
		"`emptyDir` with `fsGroup`":                   {script: "mkdir data; chown 0:54400 data; chmod 2777 data", groups: group, refusal: "use a persistent volume and set fsGroup for the pod, or mount with subPath"},
		"the same with `allow_shared_data_dir: true`": {script: "mkdir data; chown 0:54400 data; chmod 2777 data", groups: group, args: "--allow-shared-data-dir=true"},
		"tmpfs":                       {script: "mkdir data; chown 0:0 data; chmod 1777 data"},
		"Secret, default mode":        {script: secretVolume + "chmod 644 ..2026/tls.key", args: secretArgs, refusal: "set defaultMode: 0440 for the volume and fsGroup for the pod"},
		"Secret, `defaultMode: 0400`": {script: secretVolume + "chmod 400 ..2026/tls.key", args: secretArgs, refusal: "set defaultMode: 0440 for the volume and fsGroup for the pod"},
		"Secret, `defaultMode: 0440` and `fsGroup`":        {script: secretVolume + "chmod 440 ..2026/*; chgrp -R 54400 ..2026; chmod 3777 .", args: secretArgs, groups: group},
		"systemd `LoadCredential=`":                        {script: "mkdir etc/secret; cp etc/tls.* etc/secret; chown -R 54321 etc/secret; chmod 400 etc/secret/*; chmod 500 etc/secret", args: secretArgs},
		"systemd `LoadCredential=`, with access lists":     {script: "mkdir etc/secret; cp etc/tls.* etc/secret; chown -R 0:0 etc/secret; chmod 400 etc/secret/*; chmod 500 etc/secret", args: secretArgs, acl: true},
		"umask 002, files of the service's user and group": {script: "umask 002; mkdir data; chown 54321:54321 data; chmod 664 etc/users; chmod 775 etc", settings: "given"},
		"umask 002, files of a group without the service":  {script: "mkdir -m 700 data; chown 54321:54321 data; chmod 660 etc/users; chgrp 54322 etc/users", settings: "given", refusal: "every member of group 54322 could change"},
	}
}

// TestPlatformDefaults: the service starts or refuses as the table in
// docs/operations.md has it.
func TestPlatformDefaults(t *testing.T) {
	t.Parallel()
	prepared := trustedTree(t)
	docs := string(kit.Read(t, "../../docs", "operations.md"))
	for name, on := range platforms() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := "started"
			if on.refusal != "" {
				result = "refused"
			}
			if !regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(name) + ` \|.*\| ` + result).MatchString(docs) {
				t.Errorf("docs/operations.md does not say of %q that it is %s", name, result)
			}
			tryPlatform(t, prepared, on)
		})
	}
}

func tryPlatform(t *testing.T, prepared string, on platform) {
	t.Helper()
	dir := copyTree(t, prepared)
	run(t, 0, dir, "mv data old; rm etc/keyset; "+on.script)
	if on.acl {
		for name, permissions := range map[string]uint16{".": 5, "tls.crt": 4, "tls.key": 4} {
			letIn(t, filepath.Join(dir, "etc", "secret", name), permissions)
		}
	}
	if on.settings == "" {
		on.settings = "made"
	}
	o := inTree(t, dir, on.settings)
	o.Args = strings.Fields(on.args)
	edit := o.Edit
	o.Edit = func(cmd *exec.Cmd) {
		edit(cmd)
		cmd.SysProcAttr.Credential.Groups = on.groups
	}
	if on.refusal == "" {
		s := start.Serve(t, o)
		if err := s.Stop(); err != nil {
			t.Errorf("%v %s", err, s.Stderr)
		}
	} else if text := start.Refused(t, o); !strings.Contains(text, on.refusal) {
		t.Errorf("%s\nwant %s", text, on.refusal)
	}
}

// letIn lets the service's user in by an access list, as systemd does: its mask shows
// as the permissions of the group.
func letIn(t *testing.T, path string, permissions uint16) {
	t.Helper()
	list := binary.LittleEndian.AppendUint32(nil, 2) // the version (linux/posix_acl_xattr.h)
	entry := func(tag, permissions uint16, id uint32) {
		list = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(list, tag), permissions)
		list = binary.LittleEndian.AppendUint32(list, id)
	}
	entry(0x01, permissions, math.MaxUint32) // owner
	entry(0x02, permissions, service)
	entry(0x04, 0, math.MaxUint32)           // group
	entry(0x10, permissions, math.MaxUint32) // mask
	entry(0x20, 0, math.MaxUint32)           // others
	if err := unix.Setxattr(path, "system.posix_acl_access", list, 0); err != nil {
		t.Fatal(err)
	}
}
