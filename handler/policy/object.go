package policy

import (
	"github.com/go-json-experiment/json/jsontext"

	"attestcsr/csr"
	"attestcsr/handler/strict"
)

// The policy paths of the parents of objects.
const (
	infraParent        = "/infra"
	csrsParent         = infraParent + "/csrs"
	certificatesParent = infraParent + "/certificates"
)

type tag struct {
	Scope string `json:"scope"`
	Tag   string `json:"tag"`
}

// common has the members that the bodies of all objects have. A nil pointer is an
// absent member or null.
type common struct {
	DisplayName *string `json:"display_name"`
	Description *string `json:"description"`
	Tags        []tag   `json:"tags"`
	Revision    *int64  `json:"_revision"`
	serverSet
}

// serverSet has the members that only the server sets. Clients send them back, and
// we ignore them.
type serverSet struct {
	ID               jsontext.Value `json:"id"`
	ResourceType     jsontext.Value `json:"resource_type"`
	Path             jsontext.Value `json:"path"`
	ParentPath       jsontext.Value `json:"parent_path"`
	RelativePath     jsontext.Value `json:"relative_path"`
	RemotePath       jsontext.Value `json:"remote_path"`
	UniqueID         jsontext.Value `json:"unique_id"`
	RealizationID    jsontext.Value `json:"realization_id"`
	OwnerID          jsontext.Value `json:"owner_id"`
	OriginSiteID     jsontext.Value `json:"origin_site_id"`
	Children         jsontext.Value `json:"children"`
	MarkedForDelete  jsontext.Value `json:"marked_for_delete"`
	Overridden       jsontext.Value `json:"overridden"`
	CreateUser       jsontext.Value `json:"_create_user"`
	CreateTime       jsontext.Value `json:"_create_time"`
	LastModifiedUser jsontext.Value `json:"_last_modified_user"`
	LastModifiedTime jsontext.Value `json:"_last_modified_time"`
	SystemOwned      jsontext.Value `json:"_system_owned"`
	Protection       jsontext.Value `json:"_protection"`
	Links            jsontext.Value `json:"_links"`
	Schema           jsontext.Value `json:"_schema"`
	Self             jsontext.Value `json:"_self"`
}

func (c common) labels() csr.Labels {
	l := csr.Labels{DisplayName: strict.Value(c.DisplayName), Description: strict.Value(c.Description)}
	for _, t := range c.Tags {
		l.Tags = append(l.Tags, csr.Tag(t))
	}
	return l
}

// head has the members of every object that come before those of its type, and tail
// the ones after. The order is that of the vendor's example.
type head struct {
	ResourceType string `json:"resource_type"`
	ID           string `json:"id"`
	DisplayName  string `json:"display_name"`
	Description  string `json:"description,omitempty"`
	Tags         []tag  `json:"tags,omitempty"`
	Path         string `json:"path"`
	ParentPath   string `json:"parent_path"`
	RelativePath string `json:"relative_path"`
	UniqueID     string `json:"unique_id"`
}

// tail: see head. Times are milliseconds since 1970.
type tail struct {
	MarkedForDelete  bool   `json:"marked_for_delete"`
	Overridden       bool   `json:"overridden"`
	CreateUser       string `json:"_create_user"`
	CreateTime       int64  `json:"_create_time"`
	LastModifiedUser string `json:"_last_modified_user"`
	LastModifiedTime int64  `json:"_last_modified_time"`
	SystemOwned      bool   `json:"_system_owned"`
	Protection       string `json:"_protection"`
	Revision         int64  `json:"_revision"`
}

// newHead makes the head of an object in the collection with the policy path parent.
func newHead(resourceType, parent string, o csr.Object) head {
	h := head{
		ResourceType: resourceType,
		ID:           o.ID,
		DisplayName:  o.DisplayName,
		Description:  o.Description,
		Path:         parent + "/" + o.ID,
		ParentPath:   parent,
		RelativePath: o.ID,
		UniqueID:     o.UniqueID,
	}
	for _, t := range o.Tags {
		h.Tags = append(h.Tags, tag(t))
	}
	return h
}

func newTail(o csr.Object) tail {
	return tail{
		CreateUser:       o.CreatedBy,
		CreateTime:       o.Created.UnixMilli(),
		LastModifiedUser: o.ModifiedBy,
		LastModifiedTime: o.Modified.UnixMilli(),
		Protection:       "NOT_PROTECTED",
		Revision:         o.Revision,
	}
}
