package transit

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
)

// health answers load balancers and clients without credentials. A service that cannot
// commit, or cannot open its keys, is what they know as sealed.
func (t *transit) health(c echo.Context) error {
	sealed := !t.cfg.Ready(c)
	parameter, status, most := "activecode", http.StatusOK, 499 // strangers cannot make it look broken in the metrics
	if sealed {
		parameter, status, most = "sealedcode", http.StatusServiceUnavailable, 599
	}
	if wanted := c.QueryParam(parameter); wanted != "" {
		code, err := strconv.Atoi(wanted)
		if err != nil || code < http.StatusOK || code > most {
			return invalid(fmt.Sprintf("%s must be a status from 200 to %d", parameter, most))
		}
		status = code
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		return c.NoContent(status) // they have no body
	}
	return reply(c, status, struct {
		Initialized                bool   `json:"initialized"`
		Sealed                     bool   `json:"sealed"`
		Standby                    bool   `json:"standby"`
		PerformanceStandby         bool   `json:"performance_standby"`
		ReplicationPerformanceMode string `json:"replication_performance_mode"`
		ReplicationDRMode          string `json:"replication_dr_mode"`
		ServerTime                 int64  `json:"server_time_utc"`
		Version                    string `json:"version"`
		ClusterName                string `json:"cluster_name"`
	}{
		Initialized: true, Sealed: sealed, ReplicationPerformanceMode: "disabled", ReplicationDRMode: "disabled",
		ServerTime: time.Now().Unix(), Version: t.cfg.Version, ClusterName: "attestcsr",
	})
}
