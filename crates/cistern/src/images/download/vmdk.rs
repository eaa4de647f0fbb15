//! A stored disk as a `streamOptimized` VMDK, made from its beginning to its end while it is sent: its grains are
//! compressed, so nobody knows how long it will be, or where in it a part of the disk is.

use bytes::Bytes;
use disk::layout::Id;
use disk::stream_vmdk::{GRAIN_BYTES, Writer, pack};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use store::{DiskReader, Kind, Piece};

use crate::platform::error::{Error, Result};

/// Grains that are compressed at the same time for one download.
const PACKERS: usize = 4;

/// The file's bytes. Refuses a disk that a VMDK cannot hold.
pub fn bytes(reader: &DiskReader, id: Id) -> Result<BoxStream<'static, store::Result<Bytes>>> {
    let size = reader.virtual_bytes();
    let mut writer = Writer::new(size, id).map_err(|error| Error::invalid(error.to_string()))?;
    let begin = Bytes::from(writer.begin());
    let file = stream::try_unfold(
        (Some(writer), packed(reader)),
        |(writer, mut grains)| async move {
            let Some(mut writer) = writer else {
                return Ok(None);
            };
            let (next, rest) = match grains.try_next().await? {
                Some((number, packed)) => (writer.grain(number, &packed), Some(writer)),
                None => (writer.end(), None),
            };
            let next = next.map_err(|error| store::Error::new(Kind::Invalid, error.to_string()))?;
            Ok(Some((Bytes::from(next), (rest, grains))))
        },
    );
    Ok(stream::iter([Ok(begin)]).chain(file).boxed())
}

/// The compressed grains that are not all zeros, in order.
fn packed(reader: &DiskReader) -> BoxStream<'static, store::Result<(u64, Vec<u8>)>> {
    let mut at = 0;
    let grains = reader
        .stream(0..reader.virtual_bytes())
        .map_ok(move |piece| match piece {
            Piece::Zero(length) => {
                at += length;
                None
            }
            // The store gives whole chunks, which are as large as a grain.
            Piece::Data(bytes) => {
                let number = at / GRAIN_BYTES as u64;
                at += bytes.len() as u64;
                Some((number, bytes))
            }
        })
        .try_filter_map(|grain| futures::future::ready(Ok(grain)));
    grains
        .map_ok(|(number, grain)| async move {
            let packed = tokio::task::spawn_blocking(move || pack(&grain)).await;
            let packed =
                packed.map_err(|e| store::Error::new(Kind::Io, "compressing broke off").with_source(e))?;
            Ok((number, packed))
        })
        .try_buffered(PACKERS)
        .boxed()
}
