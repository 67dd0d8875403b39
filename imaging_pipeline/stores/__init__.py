"""Where RESULTS lie and inputs may: a folder of this machine, or an object store or HDFS by its URL."""

from imaging_pipeline.stores.local import LocalStore
from imaging_pipeline.stores.permissions import permissions
from imaging_pipeline.stores.remote import RemoteStore
from imaging_pipeline.stores.store import Entry, Store, at_once, open_store
from imaging_pipeline.stores.urls import is_url

__all__ = ["Entry", "LocalStore", "RemoteStore", "Store", "at_once", "is_url", "open_store", "permissions"]
