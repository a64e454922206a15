// Hadoop's side of test_hadoop_java.py: writes SequenceFiles in every compression, and reads those that cosdask wrote.
// Run as `java -cp HADOOP SequenceFiles.java FOLDER`; it prints a line a file, and its exit code is 0 unless it broke.

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.ObjectInputStream;
import java.io.ObjectStreamClass;
import java.io.Serializable;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.io.BytesWritable;
import org.apache.hadoop.io.LongWritable;
import org.apache.hadoop.io.SequenceFile;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.io.compress.BZip2Codec;
import org.apache.hadoop.io.compress.CompressionCodec;
import org.apache.hadoop.io.compress.DefaultCodec;
import org.apache.hadoop.io.compress.DeflateCodec;
import org.apache.hadoop.io.compress.GzipCodec;
import org.apache.hadoop.io.compress.SnappyCodec;
import org.apache.hadoop.io.compress.ZStandardCodec;
import org.apache.hadoop.util.ReflectionUtils;

public class SequenceFiles {
    static final Configuration CONF = new Configuration();

    public static void main(String[] words) throws Exception {
        File folder = new File(words[0]);
        Map<String, CompressionCodec> codecs = new TreeMap<>();
        codecs.put("default", new DefaultCodec());
        codecs.put("deflate", new DeflateCodec());
        codecs.put("gzip", new GzipCodec());
        codecs.put("bzip2", new BZip2Codec());
        codecs.put("snappy", new SnappyCodec());
        codecs.put("zstd", new ZStandardCodec());
        write(new File(folder, "hadoop-none-default.seq"), SequenceFile.CompressionType.NONE, new DefaultCodec());
        for (Map.Entry<String, CompressionCodec> entry : codecs.entrySet()) {
            for (SequenceFile.CompressionType type : SequenceFile.CompressionType.values()) {
                if (type != SequenceFile.CompressionType.NONE) {
                    String name = "hadoop-" + type.toString().toLowerCase() + "-" + entry.getKey() + ".seq";
                    write(new File(folder, name), type, entry.getValue());
                }
            }
        }
        texts(new File(folder, "hadoop-texts.seq"));
        File[] ours = folder.listFiles((where, name) -> name.startsWith("cosdask-"));
        Arrays.sort(ours);
        for (File file : ours) {
            read(file);
        }
    }

    /** Row i: the key is i as text, the value i * 7 % 3001 bytes that count up from i. */
    static void write(File file, SequenceFile.CompressionType type, CompressionCodec codec) {
        try {
            ((org.apache.hadoop.conf.Configurable) codec).setConf(CONF);
            try (SequenceFile.Writer writer = SequenceFile.createWriter(CONF,
                    SequenceFile.Writer.file(new Path(file.toURI())),
                    SequenceFile.Writer.keyClass(BytesWritable.class),
                    SequenceFile.Writer.valueClass(BytesWritable.class),
                    SequenceFile.Writer.compression(type, codec))) {
                for (int i = 0; i < Integer.getInteger("rows", 1000); i++) {
                    byte[] value = new byte[i * 7 % 3001];
                    for (int k = 0; k < value.length; k++) {
                        value[k] = (byte) (i + k);
                    }
                    writer.append(new BytesWritable(Integer.toString(i).getBytes("UTF-8")), new BytesWritable(value));
                }
            }
            System.out.println("wrote " + file.getName());
        } catch (Exception | LinkageError error) {
            file.delete();
            System.out.println("cannot " + file.getName() + " " + error);
        }
    }

    static void texts(File file) throws Exception {
        SequenceFile.Metadata metadata = new SequenceFile.Metadata();
        metadata.set(new Text("made by"), new Text("Hadoop"));
        try (SequenceFile.Writer writer = SequenceFile.createWriter(CONF,
                SequenceFile.Writer.file(new Path(file.toURI())),
                SequenceFile.Writer.keyClass(LongWritable.class),
                SequenceFile.Writer.valueClass(Text.class),
                SequenceFile.Writer.metadata(metadata))) {
            writer.append(new LongWritable(-5), new Text("caf\u00e9"));
            writer.append(new LongWritable(1L << 40), new Text(""));
        }
        System.out.println("wrote " + file.getName());
    }

    /** Prints rows, a digest of all keys and values, and the first key's fields where it is a tuple. */
    static void read(File file) {
        try (SequenceFile.Reader reader = new SequenceFile.Reader(CONF,
                SequenceFile.Reader.file(new Path(file.toURI())))) {
            BytesWritable key = (BytesWritable) ReflectionUtils.newInstance(reader.getKeyClass(), CONF);
            BytesWritable value = (BytesWritable) ReflectionUtils.newInstance(reader.getValueClass(), CONF);
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            int rows = 0;
            String first = "";
            while (reader.next(key, value)) {
                byte[] bytes = key.copyBytes();
                if (rows == 0 && bytes.length > 2 && bytes[0] == (byte) 0xac) {
                    first = " " + tuple(bytes);
                }
                digest.update(bytes);
                digest.update(value.copyBytes());
                rows++;
            }
            StringBuilder hex = new StringBuilder();
            for (byte part : digest.digest()) {
                hex.append(String.format("%02x", part));
            }
            System.out.println("read " + file.getName() + " " + rows + " " + hex + first);
        } catch (Exception | LinkageError error) {
            System.out.println("cannot " + file.getName() + " " + error);
        }
    }

    /** Scala is not here: its classes are stood in for by the two below, of the same simple names and version numbers. */
    static Object tuple(byte[] bytes) throws Exception {
        try (ObjectInputStream stream = new ObjectInputStream(new ByteArrayInputStream(bytes)) {
            @Override
            protected Class<?> resolveClass(ObjectStreamClass found) throws ClassNotFoundException, java.io.IOException {
                switch (found.getName()) {
                    case "scala.Tuple2": return Tuple2.class;
                    case "scala.Tuple6": return Tuple6.class;
                    default: return super.resolveClass(found);
                }
            }
        }) {
            Object tuple = stream.readObject();
            if (stream.read() != -1) {
                throw new java.io.IOException("bytes behind the key");
            }
            return tuple;
        }
    }
}

class Tuple2 implements Serializable {
    private static final long serialVersionUID = 3356420310891166197L;
    Object _1, _2;

    @Override
    public String toString() {
        return _1 + "|" + _2;
    }
}

class Tuple6 implements Serializable {
    private static final long serialVersionUID = 4027413073539505834L;
    Object _1, _2, _3, _4, _5, _6;

    @Override
    public String toString() {
        Integer sizes = (Integer) _3 + (Integer) _4 + (Integer) _5;
        return _1 + "|" + _2 + "|" + _3 + "|" + _4 + "|" + _5 + "|" + ((Boolean) _6 ? "encoded" : "raw") + "|" + sizes;
    }
}
