//! The tables, and what their states mean.

/// States of a session row.
pub(crate) mod session_state {
    /// A writer holds it.
    pub(crate) const OPEN: i16 = 1;
    /// Committed while a gc ran: its pins must outlive that gc.
    pub(crate) const ENDED: i16 = 2;
    /// Taken from its writer (or given up); its unpublished objects wait to be removed.
    pub(crate) const EXPIRED: i16 = 3;
}

/// States of an object row.
pub(crate) mod object_state {
    /// The row is there, the object perhaps: nothing refers to it yet.
    pub(crate) const INTENT: i16 = 1;
    /// Published.
    pub(crate) const LIVE: i16 = 2;
    /// Never to be read again; the object is being deleted.
    pub(crate) const DEAD: i16 = 4;
}

/// Kinds of objects.
pub(crate) mod object_kind {
    /// A pack of frames at `p/xx/<uuid>`.
    pub(crate) const PACK: i16 = 1;
    /// A whole object at `b/xx/<uuid>`.
    pub(crate) const BLOB: i16 = 2;
}

/// States of a chunk row: live, condemned (gc found no root, a hit brings it back), damaged. One gone for good has no
/// row.
pub(crate) mod chunk_state {
    /// May be hit and read.
    pub(crate) const LIVE: i16 = 1;
    /// Found by no gc root; still readable, and live again when it is hit.
    pub(crate) const CONDEMNED: i16 = 2;
    /// Its bytes were found damaged: still read where they are, as they may come back, but never hit. A new publish of
    /// the digest takes the row over, which heals every disk that has the chunk.
    pub(crate) const DAMAGED: i16 = 4;
}

macro_rules! entity {
    ($name:ident, $table:literal, { $($body:tt)* }) => {
        #[expect(unreachable_pub, reason = "SeaORM derives public items")]
        pub(crate) mod $name {
            use sea_orm::entity::prelude::*;

            #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
            #[sea_orm(table_name = $table)]
            pub struct Model { $($body)* }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

entity!(meta, "store_meta", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    pub store_id: Uuid,
    pub ready: bool,
    pub format: i32,
    pub digest_key_id: String,
    pub epoch: i64,
    pub gc_fence: Option<Uuid>,
    pub created_us: i64,
    /// The highest header number that was ever claimed.
    pub header_number: i32,
    /// The highest of them that a header may have: what was claimed for headers that were not written was withdrawn.
    pub header_last: i32,
});

entity!(session, "store_session", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub store: i32,
    pub domain: i64,
    pub owner: String,
    pub fence: Uuid,
    pub state: i16,
    pub start_epoch: i64,
    pub lease_until_us: i64,
    pub created_us: i64,
    pub ended_us: i64,
});

entity!(session_pin, "store_session_pin", {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub session: Uuid,
    pub digests: Vec<u8>,
});

entity!(session_root, "store_session_root", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub session: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub domain: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: Vec<u8>,
    pub level: i16,
});

entity!(object, "store_object", {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub store: i32,
    pub key: Uuid,
    pub kind: i16,
    pub state: i16,
    pub session: Option<Uuid>,
    pub bytes: i64,
    pub frames: i32,
    pub created_us: i64,
    pub changed_us: i64,
    pub verified_us: i64,
    /// Something of it was found damaged, needed or not.
    pub damaged: bool,
});

entity!(chunk, "store_chunk", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub domain: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub digest: Vec<u8>,
    pub object: i64,
    pub offset: i32,
    pub length: i32,
    pub kind: i16,
    pub state: i16,
    pub epoch: i64,
});

entity!(root, "store_root", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub kind: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner: String,
    pub domain: i64,
    pub digest: Vec<u8>,
    pub level: i16,
    pub virtual_bytes: i64,
    pub allocated_bytes: i64,
    pub epoch: i64,
    pub created_us: i64,
    pub restorable: bool,
});

entity!(gc, "store_gc", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub epoch: i64,
    pub started_us: i64,
    pub ended_us: i64,
    pub report: String,
});

entity!(orphan, "store_orphan", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub key: String,
    pub bytes: i64,
    pub seen_us: i64,
});

entity!(damage, "store_damage", {
    #[sea_orm(primary_key, auto_increment = false)]
    pub store: i32,
    #[sea_orm(primary_key, auto_increment = false)]
    pub kind: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub owner: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub from_byte: i64,
    pub to_byte: i64,
    pub reason: String,
    pub found_us: i64,
});
