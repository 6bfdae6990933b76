//! Model files: safetensors with torch's names and layout, a checksum over everything, written so that a crash leaves
//! the old file or the new one.
//!
//! A file is the length of the header (u64, little-endian), the header (JSON), and the tensors, one after the other.
//! The header's metadata holds the definition as text of the caller's and, under [`CHECKSUM`], the SHA-256 of the file
//! with the checksum's own 64 characters set to '0'. It detects damage; it does not authenticate.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use sha2::{Digest, Sha256};

use crate::element::Element;
use crate::error::{Error, Result};
use crate::matrix::Buffer;
use crate::plan::{Slot, Storage};
use crate::quantization;

/// Metadata key of the checksum.
pub const CHECKSUM: &str = "ranvier.checksum";
const DIGITS: usize = 64;
/// Longest header, the safetensors format's own limit.
const MAX_HEADER: u64 = 100_000_000;
const MAX_TENSORS: usize = 1 << 16;
/// Bytes that are read, hashed or written at once.
const BLOCK: usize = 1 << 18;
/// How long a temporary file of a process that is gone is left alone: the process may live elsewhere.
const LEFT_ALONE: Duration = Duration::from_secs(600);

/// A parameter, or what belongs to one, on its way to a file.
pub struct Tensor<'a, F> {
    pub name: String,
    pub slot: &'a Slot,
    pub flat: &'a [F],
    pub form: Form,
}

/// What of a parameter a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Its values.
    Own,
    /// The nearest bf16.
    Bf16,
    /// 8-bit integers with a scale for each output, see [`crate::quantization`].
    Int8,
    /// The scales that belong to these.
    Scales,
}

impl Form {
    /// Names of what weights can be narrowed to.
    pub const NAMES: [&'static str; 2] = ["bf16", "int8"];
    /// What the name of scales ends with.
    pub const SUFFIX: &'static str = "_scale";

    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::argument(
                "weights",
                format!("None or {}", Self::NAMES.join(", ")),
                format!("{name:?}"),
            )),
        }
    }
}

impl<F: Element> Tensor<'_, F> {
    fn dtype(&self) -> Dtype {
        match self.form {
            Form::Own => file_dtype::<F>(self.slot),
            Form::Bf16 => Dtype::BF16,
            Form::Int8 => Dtype::I8,
            Form::Scales => dtype::<F>(),
        }
    }

    fn shape(&self) -> Vec<usize> {
        let mut shape = file_shape(self.slot);
        if self.form == Form::Scales {
            shape.truncate(1);
        }
        shape
    }

    /// Its size in a file.
    fn bytes(&self) -> usize {
        self.shape().iter().product::<usize>() * bytes_of::<F>(self.dtype())
    }

    /// Its values, as they follow each other in a file.
    fn values(&self) -> Result<Buffer<F>> {
        let mut values = Buffer::<F>::zeroed(self.slot.count())?;
        read_out(self.slot, self.flat, &mut values);
        if !matches!(self.form, Form::Int8 | Form::Scales) {
            return Ok(values);
        }
        let shape = file_shape(self.slot);
        let mut scales = Buffer::<F>::zeroed(shape[0])?;
        for (row, scale) in values.chunks_exact_mut(shape[1]).zip(scales.iter_mut()) {
            quantization::quantize_row(row, scale);
        }
        Ok(if self.form == Form::Int8 {
            values
        } else {
            scales
        })
    }
}

/// What goes into a file.
pub struct Contents<'a, F> {
    /// In this order, after the checksum.
    pub metadata: &'a [(String, String)],
    /// Numbers that torch keeps and ranvier does not need.
    pub counters: &'a [(String, i64)],
    pub tensors: Vec<Tensor<'a, F>>,
}

/// Shape in a file: a weight is (out, in), a number alone (1).
fn file_shape(slot: &Slot) -> Vec<usize> {
    match slot.dims[..] {
        [rows, cols] => vec![cols, rows],
        [] => vec![1],
        _ => slot.dims.clone(),
    }
}

fn dtype<F: Element>() -> Dtype {
    match size_of::<F>() {
        4 => Dtype::F32,
        _ => Dtype::F64,
    }
}

/// Type of a parameter's values in a file.
fn file_dtype<F: Element>(slot: &Slot) -> Dtype {
    match slot.storage {
        Storage::Integer => Dtype::I8,
        _ => dtype::<F>(),
    }
}

fn bytes_of<F: Element>(dtype: Dtype) -> usize {
    match dtype {
        Dtype::I8 => 1,
        Dtype::BF16 => 2,
        _ => size_of::<F>(),
    }
}

impl<F: Element> Contents<'_, F> {
    /// The header, and where in it the checksum's digits are.
    fn header(&self) -> (Vec<u8>, usize) {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!("{{\"__metadata__\":{{{}:\"", quoted(CHECKSUM));
        let place = text.len();
        text += &"0".repeat(DIGITS);
        text.push('"');
        for (key, value) in self.metadata {
            text.extend([",", &quoted(key), ":", &quoted(value)]);
        }
        text.push('}');
        let mut offset = 0;
        let mut add = |name: &str, dtype: &str, shape: &[usize], bytes: usize| {
            let end = offset + bytes;
            let entry = format!(
                ",{}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{offset},{end}]}}",
                quoted(name)
            );
            offset = end;
            entry
        };
        for (name, _) in self.counters {
            text += &add(name, "I64", &[], size_of::<i64>());
        }
        for tensor in &self.tensors {
            let name = format!("{:?}", tensor.dtype());
            text += &add(&tensor.name, &name, &tensor.shape(), tensor.bytes());
        }
        text.push('}');
        let mut header = text.into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        (header, place)
    }

    /// Writes the whole file; it must be empty.
    fn write(&self, to: &mut (impl Write + Seek)) -> io::Result<()> {
        let (header, place) = self.header();
        let mut to = Hashing {
            inner: BufWriter::with_capacity(BLOCK, to),
            sha: Sha256::new(),
        };
        to.write_all(&(header.len() as u64).to_le_bytes())?;
        to.write_all(&header)?;
        for (_, value) in self.counters {
            to.write_all(&value.to_le_bytes())?;
        }
        for tensor in &self.tensors {
            let refused =
                |error: Error| io::Error::new(io::ErrorKind::OutOfMemory, error.to_string());
            let values = tensor.values().map_err(refused)?;
            let size = bytes_of::<F>(tensor.dtype());
            let mut bytes = [0; 1 << 12];
            for values in values.chunks(bytes.len() / size) {
                let used = size * values.len();
                for (bytes, value) in bytes.chunks_exact_mut(size).zip(values) {
                    match bytes {
                        [byte] => *byte = value.to_f64() as i8 as u8,
                        [low, high] => [*low, *high] = bf16_of(value.to_f64()).to_le_bytes(),
                        _ => value.to_le(bytes),
                    }
                }
                to.write_all(&bytes[..used])?;
            }
        }
        let digits = hex(&to.sha.finalize());
        let mut inner = to.inner;
        inner.seek(SeekFrom::Start(8 + place as u64))?;
        inner.write_all(digits.as_bytes())?;
        inner.flush()
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let tensors: usize = self.tensors.iter().map(Tensor::bytes).sum();
        let bytes = tensors + self.header().0.len() + 8 * (self.counters.len() + 1);
        let mut data = Vec::new();
        data.try_reserve_exact(bytes)
            .map_err(|_| Error::Memory { bytes })?;
        let mut to = Cursor::new(data);
        self.write(&mut to)
            .map_err(|error| io_error("write", Path::new(""), &error))?;
        Ok(to.into_inner())
    }

    /// Writes the file to `path`, or leaves what is there: a temporary file in the same folder is written, synced and
    /// renamed, and the folder synced.
    pub fn save(&self, path: &Path) -> Result<()> {
        // A link stays a link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if target.file_name().is_none() || target.is_dir() {
            return Err(Error::argument("path", "a file's name", path.display()));
        }
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        sweep(folder);
        let (mut file, temporary) = create(folder, &target)?;
        let written = self.fill(&mut file, &temporary, &target);
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        sync_folder(folder)
    }

    fn fill(&self, file: &mut fs::File, temporary: &Path, target: &Path) -> Result<()> {
        if let Ok(old) = fs::metadata(target) {
            file.set_permissions(old.permissions())
                .map_err(|error| io_error("set the permissions of", target, &error))?;
        }
        self.write(file)
            .map_err(|error| io_error("write", target, &error))?;
        file.sync_all()
            .map_err(|error| io_error("sync", target, &error))?;
        fs::rename(temporary, target).map_err(|error| io_error("rename to", target, &error))
    }
}

/// Makes the renaming last.
fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| io_error("sync", folder, &error))?;
    let _ = folder;
    Ok(())
}

/// A new temporary file in `folder`, to become `target`.
fn create(folder: &Path, target: &Path) -> Result<(fs::File, PathBuf)> {
    let process = std::process::id();
    let mut number = 0u64;
    loop {
        let path = folder.join(format!(".ranvier-{process}-{number}.tmp"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1 << 20 => {
                number += 1;
            }
            Err(error) => return Err(io_error("create", target, &error)),
        }
    }
}

/// Removes temporary files of processes that are gone.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| {
            let rest = name.strip_prefix(".ranvier-")?.strip_suffix(".tmp")?;
            rest.split_once('-')?.0.parse::<u32>().ok()
        });
        let Some(process) = process else { continue };
        let old = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_ALONE));
        let gone =
            Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{process}")).exists();
        if old && gone {
            // Another save may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A writer that hashes what passes.
struct Hashing<W> {
    inner: W,
    sha: Sha256,
}

impl<W: Write> Hashing<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha.update(bytes);
        self.inner.write_all(bytes)
    }
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('?');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn io_error(operation: &str, path: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::OutOfMemory && error.raw_os_error().is_none() {
        return Error::Memory { bytes: 0 };
    }
    let text = error.to_string();
    // The code has a field of its own.
    let text = text.split(" (os error").next().unwrap_or_default();
    Error::Io {
        code: error.raw_os_error(),
        message: format!("cannot {operation} it: {text}"),
        path: path.display().to_string(),
    }
}

/// Storage to the row-major values of a file.
fn read_out<F: Element>(slot: &Slot, flat: &[F], values: &mut [F]) {
    let storage = &flat[slot.range::<F>()];
    match slot.storage {
        Storage::Integer => slot.unpack_integers(storage, values, true),
        Storage::Plain if slot.dims.len() == 2 => slot.panels.unpack_transposed(storage, values),
        _ => slot.panels.unpack(storage, values),
    }
}

/// Row-major values of a file to storage.
fn read_in<F: Element>(slot: &Slot, values: &[F], flat: &mut [F]) {
    let storage = &mut flat[slot.range::<F>()];
    match slot.storage {
        Storage::Integer => slot.pack_integers(values, storage, true),
        Storage::Plain if slot.dims.len() == 2 => slot.panels.pack_transposed(values, storage),
        _ => slot.panels.pack(values, storage),
    }
}

/// The nearest bf16, ties to even; larger numbers than it has become its largest.
fn bf16_of(value: f64) -> u16 {
    let rounded = crate::simd::rounded_bf16(value as f32);
    if rounded & 0x7FFF == 0x7F80 {
        return rounded - 1;
    }
    rounded
}

trait Source: Read + Seek + Send + Sync {}
impl<T: Read + Seek + Send + Sync> Source for T {}

/// A file that was opened and whose header, and checksum, were found to be right.
pub struct File {
    name: String,
    source: Box<dyn Source>,
    /// Where the tensors begin.
    start: u64,
    header: Metadata,
}

impl File {
    /// Opens a file. Without `ours` a checksum need not be there.
    pub fn open(path: &Path, ours: bool) -> Result<Self> {
        let failed = |error: &io::Error| io_error("read", path, error);
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // Opening a pipe would wait for its writer.
            options.custom_flags(libc::O_NONBLOCK);
        }
        let file = options.open(path).map_err(|error| failed(&error))?;
        let data = file.metadata().map_err(|error| failed(&error))?;
        let name = path.display().to_string();
        if !data.is_file() {
            return Err(fault(&name, "no regular file"));
        }
        Self::new(name, Box::new(file), data.len(), ours)
    }

    /// The same for bytes in memory.
    pub fn of_bytes(bytes: Vec<u8>) -> Result<Self> {
        let len = bytes.len() as u64;
        Self::new(
            "the bytes".to_owned(),
            Box::new(Cursor::new(bytes)),
            len,
            true,
        )
    }

    fn new(name: String, mut source: Box<dyn Source>, len: u64, ours: bool) -> Result<Self> {
        let failed = |error: &io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => fault(&name, "shorter than it was when it was opened"),
            _ => io_error("read", Path::new(&name), error),
        };
        let mut prefix = [0; 8];
        if len < 8 {
            return Err(fault(&name, "shorter than 8 bytes"));
        }
        source
            .read_exact(&mut prefix)
            .map_err(|error| failed(&error))?;
        let size = u64::from_le_bytes(prefix);
        // Text has a character where a length has none.
        if prefix[7] != 0 {
            return Err(fault(&name, "no safetensors file"));
        }
        if size > MAX_HEADER || size > len - 8 {
            return Err(fault(
                &name,
                &format!("a header of {size} bytes in a file of {len}"),
            ));
        }
        let mut text = bytes(size as usize)?;
        source
            .read_exact(&mut text)
            .map_err(|error| failed(&error))?;
        let header = parse(&text).map_err(|what| fault(&name, &format!("its header: {what}")))?;
        if header.data_len() as u64 != len - 8 - size {
            let expected = header.data_len() as u64 + 8 + size;
            return Err(fault(
                &name,
                &format!("{len} bytes, where the header says {expected}"),
            ));
        }
        let checksum = header
            .metadata()
            .as_ref()
            .and_then(|data| data.get(CHECKSUM));
        match checksum {
            Some(checksum) => {
                let actual = digest(&prefix, &text, checksum, &mut source)
                    .map_err(|error| failed(&error))?;
                if actual.as_deref() != Some(checksum) {
                    return Err(fault(&name, "its contents do not agree with its checksum"));
                }
            }
            None if ours => {
                return Err(fault(
                    &name,
                    "no checksum of ranvier's; see Sequential.load_weights",
                ));
            }
            None => {}
        }
        Ok(Self {
            name,
            source,
            start: 8 + size,
            header,
        })
    }

    pub fn metadata(&self) -> BTreeMap<String, String> {
        let data = self.header.metadata().iter().flatten();
        data.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Names with type and shape, as they follow each other.
    pub fn tensors(&self) -> Vec<(String, String, Vec<usize>)> {
        let names = self.header.offset_keys().into_iter();
        let described = names.filter_map(|name| {
            let info = self.header.info(&name)?;
            Some((name, format!("{:?}", info.dtype), info.shape.clone()))
        });
        described.collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Refuses a tensor that is not there or not what the slot needs.
    pub fn check<F: Element>(&self, name: &str, slot: &Slot) -> Result<()> {
        let Some(info) = self.header.info(name) else {
            return Err(fault(&self.name, &format!("no tensor {name:?}")));
        };
        let shape = file_shape(slot);
        let dtype = file_dtype::<F>(slot);
        let narrowed = slot.dims.len() == 2
            && (info.dtype == Dtype::BF16
                || info.dtype == Dtype::I8 && self.has(&format!("{name}{}", Form::SUFFIX)));
        if !narrowed && info.dtype != dtype || info.shape != shape {
            let what = format!(
                "tensor {name:?}: expected {dtype:?} of shape {shape:?}, got {:?} of shape {:?}",
                info.dtype, info.shape
            );
            return Err(fault(&self.name, &what));
        }
        Ok(())
    }

    /// Reads a tensor into a slot of a flat vector; refuses numbers that are not finite.
    pub fn read<F: Element>(&mut self, name: &str, slot: &Slot, flat: &mut [F]) -> Result<()> {
        self.check::<F>(name, slot)?;
        let mut values = Buffer::<F>::zeroed(slot.count())?;
        let stored = self.header.info(name).map(|info| info.dtype);
        self.values_of(name, stored.unwrap_or(dtype::<F>()), &mut values)?;
        if stored == Some(Dtype::I8) && slot.storage != Storage::Integer {
            let rows = file_shape(slot)[0];
            let mut scales = Buffer::<F>::zeroed(rows)?;
            self.values(&format!("{name}{}", Form::SUFFIX), &mut scales)?;
            for (row, &scale) in values
                .chunks_exact_mut(slot.count() / rows)
                .zip(scales.iter())
            {
                for value in row {
                    *value *= scale;
                }
            }
        }
        if !values.iter().all(|value| value.finite()) {
            return Err(fault(
                &self.name,
                &format!("tensor {name:?}: a number that is not finite"),
            ));
        }
        read_in(slot, &values, flat);
        Ok(())
    }

    /// Reads a tensor's values as they lie in the file; it must be of type F.
    pub fn values<F: Element>(&mut self, name: &str, values: &mut [F]) -> Result<()> {
        self.values_of(name, dtype::<F>(), values)
    }

    /// The same of a tensor of type `dtype`.
    fn values_of<F: Element>(&mut self, name: &str, dtype: Dtype, values: &mut [F]) -> Result<()> {
        let size = bytes_of::<F>(dtype);
        let info = self.header.info(name).filter(|info| {
            let (first, end) = info.data_offsets;
            info.dtype == dtype && end - first == size * values.len()
        });
        let Some(first) = info.map(|info| info.data_offsets.0) else {
            return Err(fault(&self.name, &format!("no such tensor {name:?}")));
        };
        let name = Path::new(&self.name);
        let failed = |error: &io::Error| io_error("read", name, error);
        let start = SeekFrom::Start(self.start + first as u64);
        self.source.seek(start).map_err(|error| failed(&error))?;
        let mut bytes = [0; 1 << 12];
        for values in values.chunks_mut(bytes.len() / size) {
            let bytes = &mut bytes[..size * values.len()];
            self.source
                .read_exact(bytes)
                .map_err(|error| failed(&error))?;
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(size)) {
                *value = match *bytes {
                    [byte] => F::of_int((byte as i8).into()),
                    [low, high] => {
                        let bits = u32::from(u16::from_le_bytes([low, high])) << 16;
                        F::of(f32::from_bits(bits).into())
                    }
                    _ => F::from_le(bytes),
                };
            }
        }
        Ok(())
    }
}

fn fault(name: &str, what: &str) -> Error {
    Error::File {
        path: name.to_owned(),
        fault: what.to_owned(),
    }
}

/// A buffer of bytes that may be refused.
fn bytes(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| Error::Memory { bytes: len })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// SHA-256 of the whole file, the header's checksum replaced by zeros; None if the header does not show it as it is
/// written by [`Contents::write`].
fn digest(
    prefix: &[u8],
    header: &[u8],
    checksum: &str,
    rest: &mut dyn Read,
) -> io::Result<Option<String>> {
    let shown = format!("\"{CHECKSUM}\":\"{checksum}\"");
    let place = header
        .windows(shown.len())
        .position(|window| window == shown.as_bytes());
    let Some(place) = place.filter(|_| checksum.len() == DIGITS) else {
        return Ok(None);
    };
    let first = place + shown.len() - 1 - DIGITS;
    let mut sha = Sha256::new();
    sha.update(prefix);
    sha.update(&header[..first]);
    sha.update([b'0'; DIGITS]);
    sha.update(&header[first + DIGITS..]);
    let mut block = vec![0; BLOCK];
    loop {
        match rest.read(&mut block) {
            Ok(0) => return Ok(Some(hex(&sha.finalize()))),
            Ok(count) => sha.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The header, all of whose names are different.
struct Header {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let twice = if name == "__metadata__" {
                        let Unique(entries) = map.next_value()?;
                        metadata.replace(entries).is_some()
                    } else if tensors.len() < MAX_TENSORS {
                        tensors.insert(name.clone(), map.next_value()?).is_some()
                    } else {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{name:?} twice")));
                    }
                }
                Ok(Header {
                    metadata: metadata.unwrap_or_default(),
                    tensors: tensors.into_iter().collect(),
                })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Texts by different names.
struct Unique(HashMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Unique, A::Error> {
                let mut entries = HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if entries.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("{name:?} twice")));
                    }
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn parse(text: &[u8]) -> std::result::Result<Metadata, String> {
    if text.first() != Some(&b'{') {
        return Err("it does not begin with '{'".to_owned());
    }
    let header: Header = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut tensors = header.tensors;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let metadata = header.metadata.into_iter().collect();
    Metadata::new(Some(metadata), tensors).map_err(|error| error.to_string())
}
